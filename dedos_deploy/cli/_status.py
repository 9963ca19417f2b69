"""What dedos-run shows: a status line while it works, a table at the end."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

from dedos_deploy.spec import TRUST_LINE

if TYPE_CHECKING:
    from dedos_deploy.runtime import Statistics

REFRESH_S = 0.2
SHOWN_CLASSES = 8
OUTCOMES = {
    "end": "the source ended",
    "stopped": "stopped on request",
    "max_frames": "the asked number of frames is reached",
}


class StatusLine:
    """One line on a terminal, rewritten at most five times a second; silent on anything else.

    frames: how many there will be, None if unknown.
    """

    def __init__(self, stream: TextIO, *, enabled: bool, frames: int | None) -> None:
        self._stream = stream
        self._enabled = enabled and stream.isatty()
        self._frames = frames
        self._shown_s = 0.0

    def update(self, statistics: Callable[[], Statistics]) -> None:
        """Show the present numbers, if it is time to; `statistics` is called only then."""
        now_s = time.monotonic()
        if not self._enabled or now_s - self._shown_s < REFRESH_S:
            return
        self._shown_s = now_s
        width = shutil.get_terminal_size().columns
        line = status_text(statistics(), self._frames)[: width - 1]
        self._stream.write(f"\r{line}\x1b[K")
        self._stream.flush()

    def __enter__(self) -> StatusLine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._enabled and self._shown_s:
            self._stream.write("\r\x1b[K")
            self._stream.flush()


def status_text(statistics: Statistics, frames: int | None) -> str:
    """Return the status line: frame, rate, latency, drops, and the largest classes."""
    parts = [
        f"frame {statistics.frames}" + (f"/{frames}" if frames else ""),
        f"{statistics.fps_now:.1f} fps",
        f"p50 {statistics.latency_p50_ms:.0f} ms",
        f"p99 {statistics.latency_p99_ms:.0f} ms",
        f"drops {sum(statistics.drops.values())}",
    ]
    if statistics.trust is not None:
        low = " (low)" if statistics.trust < TRUST_LINE else ""
        parts.append(f"trust {statistics.trust:.2f}{low}")
    if statistics.windows > 1:
        parts.append(f"windows {statistics.windows:.3g}")
    largest = sorted(statistics.coverage.items(), key=lambda item: -item[1])[:SHOWN_CLASSES]
    parts += [f"{name} {100 * part:.0f}%" for name, part in largest]
    parts.append(f"none {100 * statistics.unlabelled:.0f}%")
    return "  ".join(parts)


def summary_table(source_id: str, statistics: Statistics, written: Sequence[str]) -> str:
    """Return the table printed at the end of a run."""
    names = [*statistics.coverage, "(unlabelled)"]
    parts = [*statistics.coverage.values(), statistics.unlabelled]
    width = max(len("class"), *map(len, names))
    lines = [f"{'class':{width}}  coverage"]
    lines += [
        f"{name:{width}}  {100 * part:6.2f} %" for name, part in zip(names, parts, strict=True)
    ]
    stages = ", ".join(f"{name} {value:.1f}" for name, value in statistics.stage_ms.items())
    drops = ", ".join(f"{count} {cause}" for cause, count in statistics.drops.items() if count)
    # Only where tiles were used: it is what they cost.
    windows = [("windows", f"{statistics.windows:.3g} a frame")] if statistics.windows > 1 else []
    trust = [] if statistics.trust is None else [("trust", _trusted(statistics))]
    rows = (
        ("source", f"{source_id}: {OUTCOMES.get(statistics.outcome, statistics.outcome)}"),
        (
            "frames",
            f"{statistics.frames} in {statistics.duration_s:.1f} s, {statistics.fps:.2f} fps",
        ),
        (
            "latency",
            f"p50 {statistics.latency_p50_ms:.1f} ms, p99 {statistics.latency_p99_ms:.1f} "
            f"ms" + (f" (mean {stages} ms)" if stages else ""),
        ),
        *windows,
        ("dropped", drops or "0"),
        *trust,
        ("written", ", ".join(written) or "nothing, name an --output"),
    )
    return "\n".join([*lines, "", *(f"{label:8} {text}" for label, text in rows)])


def _trusted(statistics: Statistics) -> str:
    if not statistics.untrusted:
        return "every frame looks like those that the model learned"
    return (
        f"{statistics.untrusted} of {statistics.frames} frames look unlike those that the model learned: "
        f"doubt their labels, however confident (trust below {TRUST_LINE:g})"
    )
