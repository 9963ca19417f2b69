"""Calibration: the frames that ranges and parity are measured on."""

from __future__ import annotations

from dedos_deploy.calib.frames import sample_frames

__all__ = ["sample_frames"]
