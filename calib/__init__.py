"""Calibration: the frames that ranges and parity are measured on, and INT8 made of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dedos_deploy.lazy import lazy_names

if TYPE_CHECKING:
    from dedos_deploy.calib.frames import sample_frames
    from dedos_deploy.calib.options import Int8Options
    from dedos_deploy.calib.selection import CalibrationFrames, calibration_frames

if __name__ == "calib":
    # Found in the repository's root: a second copy whose classes are not those of the package.
    raise ImportError("import dedos_deploy.calib; this folder is a room of that package")

__all__ = ["CalibrationFrames", "Int8Options", "calibration_frames", "sample_frames"]

# The options are needed by --help, which must not import numpy.
__getattr__ = lazy_names(
    __name__,
    {
        "frames": "sample_frames",
        "options": "Int8Options",
        "selection": "CalibrationFrames calibration_frames",
    },
)
