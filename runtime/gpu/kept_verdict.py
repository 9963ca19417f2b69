"""What a check of an engine on this machine takes, and what it saw, kept so that it runs once."""

from __future__ import annotations

import json
import logging
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dedos_deploy.errors import BadBundleError
from dedos_deploy.files import write_atomically
from dedos_deploy.runtime.gpu.device_check import GATE, DeviceCheck
from dedos_deploy.runtime.slots import Rows

if TYPE_CHECKING:
    from dedos_deploy.bundle import Bundle

_LOG = logging.getLogger(__name__)
_ABOUT = "engine_sha256"
_GATE = "gate"
_CHECK = [field.name for field in fields(DeviceCheck)]


def kept_verdict(path: Path, sha256: str) -> dict[str, Any] | None:
    """Return the values of a verdict about what has this SHA-256, None without one of today's gate."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return dict(values) if (values[_ABOUT], values[_GATE]) == (sha256, GATE) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def check_of(values: dict[str, Any] | None) -> DeviceCheck | None:
    """Return the check in a kept verdict; None without one, and where another release wrote it."""
    try:
        return None if values is None else DeviceCheck(**{name: values[name] for name in _CHECK})
    except KeyError:
        return None


def keep_verdict(path: Path, sha256: str, values: dict[str, Any]) -> None:
    """Write a verdict, JSON values; a file that cannot be written costs a warning."""
    content = {**values, _ABOUT: sha256, _GATE: GATE}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())
    except OSError as error:
        _LOG.warning("the check of this engine cannot be kept, it runs at every start: %s", error)


def checking_rows(bundle: Bundle) -> Rows:
    """Return the rows of the base vocabulary, float32 [N, D], to check an engine with.

    Raises BadBundleError for a bundle that ships none.
    """
    base = bundle.manifest.base_vocabulary
    if base is None:
        raise BadBundleError(
            f"bundle {bundle.name!r} ships no vocabulary to check its engine with; export it again"
        )
    return bundle.vocabulary(base)[1]
