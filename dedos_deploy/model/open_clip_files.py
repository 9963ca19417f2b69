"""Files of CLIP weights: what a tag or a file says of itself, where it comes from, whose it is."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from dedos_deploy.borders import first_line, foreign
from dedos_deploy.errors import BadInputError
from dedos_deploy.presets import ClipConfig

QUICK = "-quickgelu"
"""End of the names of open_clip's architectures that compute QuickGELU."""

_HUB_FILE = "open_clip_model.safetensors"
_PUBLISHERS = {
    "openai": ("MIT", "OpenAI, github.com/openai/CLIP (MIT)"),
    "laion": ("MIT", "LAION, github.com/mlfoundations/open_clip (MIT)"),
    "datacomp": ("MIT", "DataComp, github.com/mlfoundations/datacomp (MIT)"),
    "commonpool": ("MIT", "DataComp, github.com/mlfoundations/datacomp (MIT)"),
}
"""Licence and publisher, by the beginning of a tag; others have terms of their own."""


@dataclass(frozen=True)
class ClipFacts:
    """What a tag, or the configuration beside a file, says of its weights; None where nothing does."""

    quick_gelu: bool | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class ClipFile:
    """A file of CLIP weights."""

    path: Path
    licence: str
    """Of the weights."""
    credit: str
    """Whose they are."""


def clip_facts(open_clip: ModuleType, clip: ClipConfig, pretrained: str) -> ClipFacts:
    """Raises BadInputError for what is neither a file nor a tag of this size of CLIP."""
    if Path(pretrained).is_file():
        return _facts_beside(Path(pretrained))
    told = _tag(open_clip, clip, pretrained)
    if not told:
        tags = open_clip.list_pretrained_tags_by_model(clip.architecture)
        raise BadInputError(
            f"CLIP weights {pretrained!r} are neither a file nor a tag of {clip.architecture}; "
            f"tags: {', '.join(tags) or 'none'}"
        )
    return ClipFacts(bool(told.get("quick_gelu", False)), told.get("mean"), told.get("std"))


def clip_file(open_clip: ModuleType, clip: ClipConfig, pretrained: str) -> ClipFile:
    """Return the file itself, or that of a tag, fetched unless it is cached.

    Raises BadInputError naming the file to bring when it cannot be fetched.
    """
    if Path(pretrained).is_file():
        path = Path(pretrained)
        return ClipFile(path, "not stated by the file", f"CLIP weights of the file {path.name}")
    told = _tag(open_clip, clip, pretrained)
    hub, url = told.get("hf_hub", "").rstrip("/"), told.get("url", "")
    home = f"huggingface.co/{hub}" if hub else url
    bring = f"{_HUB_FILE} of {home}" if hub else url

    def refusal(reason: str) -> BadInputError:
        return BadInputError(
            f"CLIP weights {pretrained!r} for {clip.architecture} could not be fetched ({reason}); "
            f"bring {bring} to this machine and give it as --clip-weights FILE"
        )

    with foreign(refusal, reason=first_line):
        path = Path(open_clip.pretrained.download_pretrained(told))
    publishers = (facts for name, facts in _PUBLISHERS.items() if pretrained.startswith(name))
    licence, publisher = next(publishers, (f"see {home}", home))
    return ClipFile(path, licence, f"CLIP {clip.architecture} {pretrained!r}: {publisher}")


def _tag(open_clip: ModuleType, clip: ClipConfig, tag: str) -> dict[str, Any]:
    # The tags of both activations stand under the plain name only.
    told: dict[str, Any] = open_clip.get_pretrained_cfg(clip.architecture.removesuffix(QUICK), tag)
    return told


def _facts_beside(weights: Path) -> ClipFacts:
    path = weights.with_name("open_clip_config.json")
    if not path.is_file():
        return ClipFacts()

    def refusal(reason: str) -> BadInputError:
        return BadInputError(
            f"{str(path)!r} beside the CLIP weights is not a configuration of open_clip ({reason}); "
            "fetch it again, or move the weights away from it"
        )

    with foreign(refusal):
        told = json.loads(path.read_text(encoding="utf-8"))
        seen = told.get("preprocess_cfg", {})
        mean, std = (_three(seen[name]) if name in seen else None for name in ("mean", "std"))
        return ClipFacts(bool(told["model_cfg"].get("quick_gelu", False)), mean, std)


def _three(values: list[float]) -> tuple[float, float, float]:
    red, green, blue = values
    return float(red), float(green), float(blue)
