"""Calibration: the frames that ranges and parity are measured on, and INT8 made of them."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dedos_deploy.calib.frames import sample_frames
    from dedos_deploy.calib.options import Int8Options
    from dedos_deploy.calib.selection import CalibrationFrames, calibration_frames

if __name__ == "calib":
    # Found in the repository's root: a second copy whose classes are not those of the package.
    raise ImportError("import dedos_deploy.calib; this folder is a room of that package")

__all__ = ["CalibrationFrames", "Int8Options", "calibration_frames", "sample_frames"]

_HOMES = {
    "CalibrationFrames": "selection",
    "Int8Options": "options",
    "calibration_frames": "selection",
    "sample_frames": "frames",
}


def __getattr__(name: str) -> object:
    # Imported on first use: the options are needed by --help, which must not import numpy.
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
