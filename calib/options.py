"""The choices of a calibration, without numpy, so that the command line's --help can read them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal, get_args

from dedos_deploy.errors import BadInputError
from dedos_deploy.options import Option

Estimator = Literal["max", "percentile", "entropy", "mse"]
ESTIMATORS: tuple[Estimator, ...] = get_args(Estimator)


def check_estimator(name: str) -> None:
    """Raise BadInputError unless `name` is one of ESTIMATORS."""
    if name not in ESTIMATORS:
        raise BadInputError(f"estimator {name!r} is unknown; choose one of {', '.join(ESTIMATORS)}")


@dataclass(frozen=True)
class Int8Options:
    """How INT8 is calibrated and judged.

    Raises BadInputError for an estimator that is unknown or a budget out of its range.
    """

    calib: str | os.PathLike[str]
    """Picture folder, glob, video, camera or stream."""

    frames: int = 64
    """Frames taken of `source`, at least 16, an eighth of which checks instead of calibrating."""

    seed: int = 0
    """Other seeds take other frames."""

    estimator: Estimator = "mse"
    """How ranges are made of what was seen."""

    table: str | os.PathLike[str] | None = None
    """Calibration table to reuse, or to write where there is none."""

    labels: str | os.PathLike[str] | None = None
    """Label folder on which the verdict compares mean IoU; None: agreement of labels."""

    labels_split: str = "val"
    """Split of `labels`."""

    budget: float = 0.01
    """Part of mean IoU, or of the pixels' labels without `labels`, that may be lost before layers go
    back to float, in [0, 1]."""

    smoothing: bool = True
    """Move outliers of LayerNorm into weights."""

    force: bool = False
    """Write INT8 whatever the verdict is."""

    def __post_init__(self) -> None:
        check_estimator(self.estimator)
        if not 0.0 <= self.budget <= 1.0:
            raise BadInputError(f"the INT8 budget must lie in [0, 1], not {self.budget}")


INT8_OPTIONS = (
    Option(
        "calib",
        "what to calibrate on: folder, glob, video, camera or stream, of pictures like those the "
        "engine will see; needed for int8",
        metavar="SOURCE",
    ),
    Option(
        "frames",
        "how many of its frames (default: {default})",
        int,
        flag="--calib-frames",
        metavar="N",
        default=Int8Options.frames,
    ),
    Option(
        "table",
        "calibration table: used again when it is there and fits, written otherwise; an "
        "interrupted calibration goes on from beside it",
        flag="--calib-table",
        metavar="FILE",
    ),
    Option(
        "estimator",
        "of ranges (default: {default})",
        choices=ESTIMATORS,
        default=Int8Options.estimator,
    ),
    Option("seed", "other seeds take other frames", int, flag="--calib-seed", metavar="N"),
    Option(
        "budget",
        "part of mean IoU, or of the pixels' labels without --labels, that may be lost; layers "
        "go back to float until it holds (default: {default})",
        float,
        flag="--int8-budget",
        metavar="PART",
        default=Int8Options.budget,
    ),
    Option("smoothing", "move outliers of LayerNorm into weights (default: yes)", switch="both"),
    Option(
        "labels",
        "label folder on which the verdict compares mean IoU; without one it compares labels",
        metavar="FOLDER",
    ),
    Option(
        "labels_split",
        "its split (default: {default})",
        metavar="NAME",
        default=Int8Options.labels_split,
    ),
    Option("force", "write INT8 whatever the verdict is", flag="--force-int8", switch="on"),
)
