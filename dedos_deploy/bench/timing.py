"""Measuring a bundle on this machine, one frame end to end."""

from __future__ import annotations

import os
import resource
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dedos_deploy.errors import BadInputError
from dedos_deploy.runtime.engines.contract import EngineOptions
from dedos_deploy.runtime.engines.opening import open_engine
from dedos_deploy.runtime.segmenter import Segmenter
from dedos_deploy.runtime.slots import Rows, Thresholds


@dataclass(frozen=True)
class FrameTimes:
    """Median cost of labelling one frame: resize, engine, label map at frame size."""

    preset: str
    precision: str
    network_hw: tuple[int, int]
    frame_hw: tuple[int, int]
    slots: int
    threads: int
    frames: int
    cpu_s_per_thread: float
    """Process CPU seconds / threads, which load from other programs disturbs least."""

    wall_s: float
    pre_ms: float
    engine_ms: float
    post_ms: float
    """Wall clock."""

    peak_mb: float
    """Peak resident memory of the process."""


def time_frames(
    bundle: str | os.PathLike[str],
    *,
    frame_hw: tuple[int, int],
    slots: int,
    frames: int,
    threads: int,
) -> FrameTimes:
    """Return the cost per frame of `bundle` with `slots` made-up words; text is cached, as in use.

    frame_hw: size of the noise frames; frames: timed ones, after one warm-up; threads: at most one
    per usable core is used, and reported.
    Raises BadInputError for numbers below 1, BadBundleError and EngineError as opening does.
    """
    from dedos_deploy.bundle import Bundle
    from dedos_deploy.threads import usable_threads

    for name, value in (("slots", slots), ("frames", frames), ("threads", threads)):
        if value < 1:
            raise BadInputError(f"{name} is {value}, but must be at least 1")
    threads = usable_threads(threads)
    rng = np.random.default_rng(0)

    with Bundle.open(bundle) as opened:
        width = opened.spec.text_width

        def unit_rows(words: Sequence[str], **_: object) -> Rows:
            rows = rng.standard_normal((len(words), width)).astype(np.float32)
            unit: Rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
            return unit

        segmenter = Segmenter(
            open_engine(opened, "cpu", EngineOptions(threads)),
            unit_rows,
            classes=[f"word {index}" for index in range(slots)],
            thresholds=Thresholds({}, 0.0, enabled=False),
            threads=threads,
        )
        runs = []
        with segmenter:
            for _ in range(1 + frames):
                frame = rng.integers(0, 256, (*frame_hw, 3), dtype=np.uint8)
                cpu, wall = time.process_time(), time.perf_counter()
                parts = segmenter.segment(frame).latency_ms
                cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
                runs.append((cpu / threads, wall, parts["pre"], parts["engine"], parts["post"]))
        cpu_s, wall_s, pre_ms, engine_ms, post_ms = (
            statistics.median(column) for column in zip(*runs[1:], strict=True)
        )
        return FrameTimes(
            preset=opened.manifest.preset,
            precision=opened.manifest.precision.get("image", "unknown"),
            network_hw=(opened.spec.height, opened.spec.width),
            frame_hw=frame_hw,
            slots=slots,
            threads=threads,
            frames=frames,
            cpu_s_per_thread=cpu_s,
            wall_s=wall_s,
            pre_ms=pre_ms,
            engine_ms=engine_ms,
            post_ms=post_ms,
            peak_mb=peak_mb(),
        )


def peak_mb() -> float:
    """Peak resident memory of this process; Linux counts in KiB, macOS in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
