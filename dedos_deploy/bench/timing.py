"""Measuring a bundle on this machine, one frame end to end."""

from __future__ import annotations

import os
import resource
import statistics
import sys
import time
from dataclasses import dataclass

import numpy as np

from dedos_deploy.bench.opening import open_segmenter
from dedos_deploy.errors import BadInputError
from dedos_deploy.runtime.engines.contract import EngineOptions


@dataclass(frozen=True)
class FrameTimes:
    """Median cost of labelling one frame as `dedos-run` does: resize, engine, label map at frame size."""

    preset: str
    precision: str
    network_hw: tuple[int, int]
    frame_hw: tuple[int, int]
    slots: int
    threads: int
    frames: int
    windows: int
    """Pictures of a frame that the network was shown: 1, or for a bundle with tiles its windows and the whole."""

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
        segmenter, _ = open_segmenter(opened, "cpu", EngineOptions(threads))
        runs = []
        with segmenter:
            segmenter.set_classes([f"word {index}" for index in range(slots)])
            for _ in range(1 + frames):
                frame = rng.integers(0, 256, (*frame_hw, 3), dtype=np.uint8)
                cpu, wall = time.process_time(), time.perf_counter()
                result = segmenter.segment(frame)
                cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
                parts = result.latency_ms
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
            windows=result.windows,
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
