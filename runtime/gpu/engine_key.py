"""What an engine was built from and for: a file beside it, compared before it is ever loaded."""

from __future__ import annotations

import json
import platform
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from dedos_deploy.errors import EngineError

_L4T_FILE = Path("/etc/nv_tegra_release")


@dataclass(frozen=True)
class EngineKey:
    """What decides an engine; a device that differs in any field builds its own."""

    model_sha256: str
    """Of model.onnx."""

    precision: str
    flavour: str
    version: str
    profiles: tuple[int, ...]
    """Slots K per optimisation profile, in order."""

    compute_capabilities: tuple[str, ...]
    """GPUs it may run on."""

    platform: str = "any"
    """System, machine and, on Jetson, the L4T release, "any" for engines that several machines
    share."""

    @property
    def name(self) -> str:
        """File name without its suffix, different for every key that can stand side by side."""
        gpus = "-".join(capability.replace(".", "") for capability in self.compute_capabilities)
        short = "rtx" if self.flavour == "tensorrt-rtx" else "trt"
        place = "" if self.platform == "any" else f"-{self.platform}"
        return f"{short}-{self.model_sha256[:8]}-{self.precision}-{self.version}-sm{gpus}{place}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2) + "\n"

    @classmethod
    def from_dict(cls, values: Any, *, name: str) -> EngineKey:
        """Return the key in `values`; name: of its file. Raises EngineError for anything else."""
        wanted = {field.name for field in fields(cls)}
        try:
            known = {key: values[key] for key in wanted if key in values}
            known["profiles"] = tuple(int(k) for k in known["profiles"])
            known["compute_capabilities"] = tuple(map(str, known["compute_capabilities"]))
            return cls(**known)
        except (KeyError, TypeError, ValueError) as error:
            raise EngineError(
                f"{name} is not the key of an engine ({error!r}); delete it and its engine, and "
                "run again to build a new one"
            ) from error

    def difference(self, wanted: EngineKey, *, sm: str) -> str | None:
        """Return why this engine cannot serve where `wanted` is wanted on a GPU of capability
        `sm`, in one sentence part; None when it can.

        >>> key = EngineKey("ab" * 32, "fp16", "tensorrt-rtx", "1.7", (16,), ("8.6", "8.9"))
        >>> key.difference(key, sm="8.9"), key.difference(key, sm="9.0")
        (None, 'it runs on compute capability 8.6, 8.9, this GPU has 9.0')
        """
        if self.model_sha256 != wanted.model_sha256:
            return "it was built from another model.onnx"
        for field in ("flavour", "version", "precision", "platform"):
            mine, theirs = getattr(self, field), getattr(wanted, field)
            if mine != theirs and not (field == "platform" and mine == "any"):
                return f"its {field} is {mine}, here it is {theirs}"
        if self.profiles != wanted.profiles:
            return f"its slot profiles are {list(self.profiles)}, not {list(wanted.profiles)}"
        if sm not in self.compute_capabilities:
            listed = ", ".join(self.compute_capabilities)
            return f"it runs on compute capability {listed}, this GPU has {sm}"
        return None


def platform_name() -> str:
    """Return system and machine, and on Jetson the L4T release, such as `linux-aarch64-l4t36.4`."""
    base = f"{platform.system().lower()}-{platform.machine().lower()}"
    release = l4t_release()
    return base if release is None else f"{base}-l4t{release}"


def l4t_release(path: Path = _L4T_FILE) -> str | None:
    """Return the L4T release of a Jetson, such as `36.4`, or None elsewhere.

    >>> l4t_release(Path("/nowhere")) is None
    True
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    found = re.search(r"R(\d+).*?REVISION:\s*(\d+)", text)
    return f"{found[1]}.{found[2]}" if found else None
