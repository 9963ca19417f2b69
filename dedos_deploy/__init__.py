"""DEDOS Deploy: open-vocabulary semantic segmentation whose class list is an engine input."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dedos_deploy.lazy import lazy_names
from dedos_deploy.telemetry import switch_off
from dedos_deploy.version import __version__

if TYPE_CHECKING:
    from dedos_deploy.bundle import Bundle
    from dedos_deploy.runtime import Segmentation, Segmenter

# Here, since nothing of this package, whoever imports it, can load a library before this has run.
switch_off()

__all__ = ["Bundle", "Segmentation", "Segmenter", "__version__"]

# So that `import dedos_deploy` and every --help stay light.
__getattr__ = lazy_names(__name__, {"bundle": "Bundle", "runtime": "Segmentation Segmenter"})
