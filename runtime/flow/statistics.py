"""Numbers about a run: counted as results come, given out as a snapshot."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from dedos_deploy.runtime.frame import Frame
from dedos_deploy.runtime.segmentation import Segmentation
from dedos_deploy.spec import TRUST_LINE

NAMES_KEPT = 256
"""Class names whose coverage is kept, the last that were asked for; a vocabulary of more is kept whole."""

WINDOW = 512
"""Results over which latencies and the present rate are taken."""


@dataclass(frozen=True)
class Statistics:
    """A run so far."""

    frames: int
    """Results delivered."""

    duration_s: float
    """Seconds from the start of the run to the last result."""

    fps: float
    """frames / duration_s."""

    fps_now: float
    """Over the last WINDOW results."""

    drops: dict[str, int]
    """Frames lost, by cause."""

    latency_p50_ms: float
    latency_p99_ms: float
    """Frame to label map, over the last WINDOW results."""

    stage_ms: dict[str, float]
    """Mean of each part of that, over the last WINDOW results."""

    windows: float
    """Mean number of pictures of a frame that the network was shown, over the last WINDOW results: 1, more
    with tiles."""

    age_p50_ms: float
    age_p99_ms: float
    """Capture to delivery, over the last WINDOW results."""

    coverage: dict[str, float]
    """Mean fraction of the pixels per class over all frames."""

    unlabelled: float
    """Mean fraction of the pixels without a class over all frames."""

    outcome: str
    """`running`, `end` of the source, `stopped` on request, or `max_frames`."""

    trust: float | None = None
    """Of the last result; None where the bundle has no statistics."""

    untrusted: int = 0
    """Results whose trust was below TRUST_LINE."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; `trust` and `untrusted` only where there is a trust."""
        values = asdict(self)
        if self.trust is None:
            del values["trust"], values["untrusted"]
        return values


class Meter:
    """Counts results; may be read from another thread than the one that counts."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._started_s = self._last_s = time.monotonic()
        self._frames = 0
        self._pixels = 0
        self._counts: dict[str, int] = {}
        self._forgotten = 0
        self._trust: float | None = None
        self._untrusted = 0
        self._latencies: deque[Mapping[str, float]] = deque(maxlen=WINDOW)
        self._windows: deque[int] = deque(maxlen=WINDOW)
        self._ages_ms: deque[float] = deque(maxlen=WINDOW)
        self._times_s: deque[float] = deque(maxlen=WINDOW)

    def add(self, frame: Frame, result: Segmentation) -> None:
        now_s = time.monotonic()
        with self._lock:
            self._frames += 1
            self._last_s = now_s
            self._pixels += result.label_map.size
            for class_id in result.class_ids:
                name = result.classes[class_id]
                # Last in order are the names that were asked for last.
                self._counts[name] = self._counts.pop(name, 0) + int(result.counts[class_id])
            while len(self._counts) > max(NAMES_KEPT, len(result.class_ids)):
                self._forgotten += self._counts.pop(next(iter(self._counts)))
            self._trust = result.trust
            self._untrusted += result.trust is not None and result.trust < TRUST_LINE
            self._latencies.append(result.latency_ms)
            self._windows.append(result.windows)
            self._ages_ms.append(1e3 * (now_s - frame.timestamp_s))
            self._times_s.append(now_s)

    def snapshot(self, *, drops: Mapping[str, int], outcome: str) -> Statistics:
        """Return the numbers so far; rates and latencies are 0 before the first result."""
        with self._lock:
            duration_s = self._last_s - self._started_s
            window_s = self._times_s[-1] - self._times_s[0] if self._times_s else 0.0
            totals = [sum(latency.values()) for latency in self._latencies]
            parts_ms = {
                name: float(np.mean([latency[name] for latency in self._latencies]))
                for name in (self._latencies[-1] if self._latencies else ())
            }
            coverage = {name: count / self._pixels for name, count in self._counts.items()}
            return Statistics(
                frames=self._frames,
                duration_s=duration_s,
                fps=self._frames / duration_s if duration_s > 0 else 0.0,
                fps_now=(len(self._times_s) - 1) / window_s if window_s > 0 else 0.0,
                drops=dict(drops),
                latency_p50_ms=_percentile(totals, 50),
                latency_p99_ms=_percentile(totals, 99),
                stage_ms=parts_ms,
                windows=float(np.mean(self._windows)) if self._windows else 0.0,
                age_p50_ms=_percentile(self._ages_ms, 50),
                age_p99_ms=_percentile(self._ages_ms, 99),
                coverage=coverage,
                unlabelled=self._unlabelled(),
                outcome=outcome,
                trust=self._trust,
                untrusted=self._untrusted,
            )

    def _unlabelled(self) -> float:
        labelled = sum(self._counts.values()) + self._forgotten
        return 1.0 - labelled / self._pixels if self._pixels else 0.0


def _percentile(values: list[float] | deque[float], percent: float) -> float:
    return float(np.percentile(np.asarray(values), percent)) if values else 0.0
