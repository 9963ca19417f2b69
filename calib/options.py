"""The choices of a calibration, without numpy, so that the command line's --help can read them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal, get_args

from dedos_deploy.errors import BadInputError

Estimator = Literal["max", "percentile", "entropy", "mse"]
ESTIMATORS: tuple[Estimator, ...] = get_args(Estimator)


def check_estimator(name: str) -> None:
    """Raise BadInputError unless `name` is one of ESTIMATORS."""
    if name not in ESTIMATORS:
        raise BadInputError(f"estimator {name!r} is unknown; choose one of {', '.join(ESTIMATORS)}")


@dataclass(frozen=True)
class Int8Options:
    """How INT8 is calibrated and judged.

    calib: picture folder, glob, video, camera or stream; frames: how many of its frames, at least 16,
    an eighth of which checks instead of calibrating; seed: other seeds take other frames; estimator:
    of ranges, one of ESTIMATORS; table: calibration table to reuse, or to write where there is none;
    labels: label folder on which the verdict compares mean IoU, None for agreement of labels;
    labels_split: its split; budget: part of mean IoU, or of the pixels' labels without labels given, that may be
    lost before layers go back to float, in [0, 1]; smoothing: move outliers of LayerNorm into weights; force: write INT8
    whatever the verdict is.

    Raises BadInputError for an estimator that is unknown or a budget out of its range.
    """

    calib: str | os.PathLike[str]
    frames: int = 64
    seed: int = 0
    estimator: Estimator = "mse"
    table: str | os.PathLike[str] | None = None
    labels: str | os.PathLike[str] | None = None
    labels_split: str = "val"
    budget: float = 0.01
    smoothing: bool = True
    force: bool = False

    def __post_init__(self) -> None:
        check_estimator(self.estimator)
        if not 0.0 <= self.budget <= 1.0:
            raise BadInputError(f"the INT8 budget must lie in [0, 1], not {self.budget}")
