"""Whether INT8 earned its place: accuracy and speed beside the float graph, in one run.

INT8 is kept when it is at least MIN_SPEEDUP times as fast and loses at most MAX_LOSS: of mean IoU
where labels are given, of the pixels' labels otherwise. What failed is said with its figure.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from dedos_deploy.errors import BadInputError

MIN_SPEEDUP = 1.15
MAX_LOSS = 0.01
"""One point: part of mean IoU, or of the pixels whose label may change."""

ROUNDS = 5

Run = Callable[[], object]


@dataclass(frozen=True)
class SideBySide:
    """Seconds of two things done in turn."""

    reference_s: float
    candidate_s: float
    """Median of a round."""

    speedup: float
    """Median over the rounds of reference / candidate, which load from other programs moves
    little."""

    rounds: int


def side_by_side(reference: Run, candidate: Run, *, rounds: int = ROUNDS) -> SideBySide:
    """Time both, in turn, the first of a round changing each time; one warm-up of each before.

    Raises BadInputError for fewer than one round.
    """
    if rounds < 1:
        raise BadInputError(f"at least one round of timing is needed, not {rounds}")
    reference(), candidate()
    times: list[tuple[float, float]] = []
    for number in range(rounds):
        if number % 2:
            second = _seconds(candidate)
            times.append((_seconds(reference), second))
        else:
            first = _seconds(reference)
            times.append((first, _seconds(candidate)))
    return SideBySide(
        statistics.median(first for first, _ in times),
        statistics.median(second for _, second in times),
        statistics.median(first / second for first, second in times),
        rounds,
    )


def _seconds(run: Run) -> float:
    started = time.perf_counter_ns()
    run()
    return (time.perf_counter_ns() - started) / 1e9


@dataclass(frozen=True)
class Accuracy:
    """What INT8 loses."""

    agreement: float
    """Part of the pixels with the float graph's label."""

    images: int
    """How many were compared."""

    miou_reference: float | None = None
    miou_int8: float | None = None
    """Mean IoU over the classes present, None without labels."""

    @property
    def loss(self) -> float:
        """Part lost, of mean IoU where it is known."""
        if self.miou_reference is not None and self.miou_int8 is not None:
            return self.miou_reference - self.miou_int8
        return 1.0 - self.agreement


@dataclass(frozen=True)
class Verdict:
    """INT8 or not."""

    accuracy: Accuracy
    timing: SideBySide | None
    """None where this machine cannot run the target."""

    failed: tuple[str, ...]
    """Conditions that do not hold, a sentence each."""

    forced: bool
    """INT8 is kept although one of them does not hold."""

    @property
    def kept(self) -> bool:
        """Whether the bundle is INT8."""
        return self.forced or not self.failed

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {**asdict(self), "kept": self.kept}

    def __str__(self) -> str:
        timing, accuracy = self.timing, self.accuracy
        speed = "speed unknown" if timing is None else f"{timing.speedup:.2f}x as fast"
        if accuracy.miou_reference is not None and accuracy.miou_int8 is not None:
            loss = f"mean IoU {accuracy.miou_reference:.3f} → {accuracy.miou_int8:.3f}"
        else:
            loss = f"{accuracy.agreement:.2%} of pixels keep their label"
        outcome = "kept" if not self.failed else "forced" if self.forced else "not kept"
        reasons = "".join(f"; {sentence}" for sentence in self.failed)
        return f"INT8 {outcome}: {speed}, {loss}{reasons}"


def judge(accuracy: Accuracy, timing: SideBySide | None, *, force: bool = False) -> Verdict:
    """Return the verdict; `force` keeps INT8 against it, and the verdict says so."""
    failed = []
    if timing is None:
        failed.append(
            "no engine of this target runs here, so a gain in speed is not shown; export on the "
            "device, or use --force-int8"
        )
    elif timing.speedup < MIN_SPEEDUP:
        failed.append(f"{timing.speedup:.2f}x as fast, at least {MIN_SPEEDUP}x is needed")
    if not accuracy.loss <= MAX_LOSS:
        what = "mean IoU" if accuracy.miou_int8 is not None else "pixels with another label"
        failed.append(
            f"it loses {100 * accuracy.loss:.1f} points ({what}), at most {100 * MAX_LOSS:.0f} is "
            "allowed"
        )
    return Verdict(accuracy, timing, tuple(failed), force and bool(failed))
