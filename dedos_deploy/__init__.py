"""DEDOS Deploy: open-vocabulary semantic segmentation whose class list is an engine input."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dedos_deploy.telemetry import switch_off
from dedos_deploy.version import __version__

if TYPE_CHECKING:
    from dedos_deploy.bundle import Bundle
    from dedos_deploy.runtime import Segmentation, Segmenter

# Here, since nothing of this package, whoever imports it, can load a library before this has run.
switch_off()

__all__ = ["Bundle", "Segmentation", "Segmenter", "__version__"]

_HOMES = {
    "Bundle": "dedos_deploy.bundle",
    "Segmentation": "dedos_deploy.runtime",
    "Segmenter": "dedos_deploy.runtime",
}


def __getattr__(name: str) -> object:
    # Imported on first use, so that `import dedos_deploy` and every --help stay light.
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
