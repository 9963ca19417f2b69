"""Parts of a frame's time, for several bundles side by side: their labels are compared first."""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.bench.ceilings import Ceilings, cpu_ceilings, gpu_ceilings
from dedos_deploy.bench.energy import open_meter
from dedos_deploy.bench.opening import made_up_rows, open_segmenter
from dedos_deploy.bundle import Bundle
from dedos_deploy.errors import BadInputError
from dedos_deploy.progress import QUIET, Progress
from dedos_deploy.runtime.engines.contract import Engine, EngineOptions
from dedos_deploy.runtime.engines.opening import open_engine
from dedos_deploy.runtime.engines.tensors import Tensors
from dedos_deploy.runtime.label_maps import best_slots
from dedos_deploy.runtime.labelling import unusable_scores
from dedos_deploy.runtime.segmenter import Segmenter
from dedos_deploy.runtime.slots import Rows
from dedos_deploy.spec import CPU_ENGINES
from dedos_deploy.threads import usable_cores, usable_threads
from dedos_deploy.vocabulary import Entry, Vocabulary, canonical_word

WARM_UP = 3
PARTS = ("pre", "engine", "post", "total")
COMPARED_FRAMES = 2
COMPARED_HW = (480, 640)
MOST_COMPARED_WORDS = 64


@dataclass(frozen=True)
class BenchOptions:
    """What is measured."""

    bundles: Sequence[str]
    """Paths or "demo"."""

    engine: str = "cpu"
    """One of `spec.ENGINES`, for all bundles."""

    slots: Sequence[int] = (171,)
    sizes: Sequence[tuple[int, int]] = ((720, 1280),)
    """Frame sizes (height, width); each is measured with each number of `slots`."""

    frames: int = 50
    """Timed frames per combination."""

    threads: int | None = None
    gpu: int = 0
    """As of the engine."""

    def __post_init__(self) -> None:
        for name, values in (("slots", self.slots), ("frames", [self.frames])):
            for value in values:
                if value < 1:
                    raise BadInputError(f"{name} is {value}, but must be at least 1")


@dataclass(frozen=True)
class BenchRow:
    """One combination."""

    bundle: str
    preset: str
    precision: str
    network_hw: tuple[int, int]
    batch: int
    slots: int
    frame_hw: tuple[int, int]
    frames: int
    windows: int
    """Pictures of a frame that the network was shown: 1, or for a bundle with tiles its windows and the
    whole, all of which are in the frame's time."""

    ms: dict[str, dict[str, float]]
    """p50, p90 and p99 in milliseconds per part of PARTS, `total` being wall time from frame to
    label map."""

    jitter: float
    """p99 / p50 of the total."""

    fps: float
    """Frames per second, one after the other."""

    joules: float | None
    """Per frame, None where nothing tells."""

    of_matmul: float | None
    """Part of the measured ceiling that the engine reaches, None where the multiply-accumulates are
    not known."""

    process_mb: float
    """Peak of this process, all bundles open."""

    device_mb: float | None
    """In use on the GPU, other programs included."""


@dataclass(frozen=True)
class BenchReport:
    """What was measured."""

    rows: tuple[BenchRow, ...]
    """All combinations."""

    agreement: dict[str, float]
    """Part of pixels to which a bundle gives the label that the first one gives."""

    ceilings: Ceilings | None
    energy: str | None
    facts: dict[str, Any]
    """Machine and versions."""


def run_bench(options: BenchOptions, *, progress: Progress = QUIET) -> BenchReport:
    """Measure; progress: noted what is being done.

    Bundles take turns frame by frame, each first in every other round, so that what else happens on
    the machine meets all of them. Raises what opening bundles and engines raises.
    """
    with contextlib.ExitStack() as opened:
        subjects = [_Subject(name, options, opened, progress) for name in options.bundles]
        progress.note("comparing labels")
        agreement = {subject.name: subject.agreement(subjects[0]) for subject in subjects}
        gpu = options.engine not in CPU_ENGINES
        progress.note("measuring what the machine can do")
        ceilings = (
            gpu_ceilings(options.gpu) if gpu else cpu_ceilings(usable_threads(options.threads))
        )
        meter = open_meter(gpu=gpu, index=options.gpu)
        rows: list[BenchRow] = []
        for size in options.sizes:
            for slots in options.slots:
                progress.note(f"frames of {size[0]}x{size[1]}, K={slots}")
                rows += _measure(subjects, slots, size, options.frames, meter)
        # Counting needs torch, whose memory and threads must not disturb what was measured.
        rows = [
            _beside_ceiling(row, subjects[index % len(subjects)], ceilings)
            for index, row in enumerate(rows)
        ]
        facts = {
            "machine": platform.machine(),
            "system": platform.system(),
            "cores": usable_cores(),
            "threads": usable_threads(options.threads),
            "engine": options.engine,
            **subjects[0].engine.facts(),
        }
    return BenchReport(
        tuple(rows), agreement, ceilings, None if meter is None else meter.source, facts
    )


class _Subject:
    """One bundle on its engine."""

    def __init__(
        self,
        name: str,
        options: BenchOptions,
        opened: contextlib.ExitStack,
        progress: Progress,
    ) -> None:
        self.name = name
        progress.note(f"opening {name}")
        self.bundle = opened.enter_context(contextlib.closing(Bundle.open(name)))
        self.spec = self.bundle.spec
        self.windows = 1
        """Pictures of the last frame that the network was shown."""
        self._rng = np.random.default_rng(0)
        self._inputs: Tensors = {}
        self.segmenter: Segmenter | None = None
        self.engine: Engine
        wanted = EngineOptions(options.threads, options.gpu, progress)
        if self.spec.batch == 1:
            self.segmenter, self.engine = open_segmenter(self.bundle, options.engine, wanted)
            opened.callback(self.segmenter.close)
        else:
            self.engine = open_engine(self.bundle, options.engine, wanted)
            opened.callback(self.engine.close)

    def prepare(self, slots: int) -> None:
        if self.segmenter is not None:
            self.segmenter.set_classes([f"word {index}" for index in range(slots)])
            return
        image = (self.spec.batch, self.spec.height, self.spec.width, 3)
        self._inputs = {
            "image": self._rng.integers(0, 256, image, np.uint8),
            "text": made_up_rows(slots, self.spec.text_width, self._rng),
            "valid": np.ones(slots, np.float32),
        }

    def run(self, frame: NDArray[np.uint8]) -> dict[str, float]:
        """Label a frame, or run a batch; milliseconds per part."""
        started = time.perf_counter()
        if self.segmenter is not None:
            result = self.segmenter.segment(frame)
            parts, self.windows = dict(result.latency_ms), result.windows
        else:
            self.engine.infer(self._inputs)
            parts = {"engine": 1e3 * (time.perf_counter() - started)}
        return parts | {"total": 1e3 * (time.perf_counter() - started)}

    def agreement(self, other: _Subject) -> float:
        """Part of pixels of embedded scenes with the label of `other`, each as it labels frames and with its
        own embeddings of the same words."""
        if other is self:
            return 1.0
        mine = self.bundle.known_embeddings()
        # Two spellings of one word are one class.
        known = {canonical_word(word): word for word in other.bundle.base_words}
        words = list(known.values())[:MOST_COMPARED_WORDS]
        if not words or any(word not in mine for word in words):
            raise BadInputError(
                f"bundles {self.name!r} and {other.name!r} ship other vocabularies, so their labels "
                "cannot be compared; export both with the same --vocabulary"
            )
        same = [np.mean(other._labels(one, words) == self._labels(one, words)) for one in _scenes()]
        return float(np.mean(same))

    def _labels(self, picture: NDArray[np.uint8], words: Sequence[str]) -> NDArray[np.integer[Any]]:
        """Return which of some words that the bundle ships every pixel has."""
        if self.segmenter is not None:
            view = self.segmenter.share(Vocabulary(tuple(map(Entry, words))))
            return view.segment(picture).label_map
        known = self.bundle.known_embeddings()
        scores = self._scores(picture, np.stack([known[word] for word in words]))
        try:
            return best_slots(scores, COMPARED_HW)
        except ValueError as error:
            raise unusable_scores(str(error)) from error

    def _scores(self, picture: NDArray[np.uint8], rows: Rows) -> NDArray[np.float32]:
        from dedos_deploy.runtime.frame import resize_frame

        image = np.empty((self.spec.height, self.spec.width, 3), np.uint8)
        resize_frame(picture, image)
        batch = np.ascontiguousarray(np.broadcast_to(image, (self.spec.batch, *image.shape)))
        inputs: Tensors = {"image": batch, "text": rows, "valid": np.ones(len(rows), np.float32)}
        scores: NDArray[np.float32] = self.engine.infer(inputs)["scores"][0].astype(np.float32)
        return scores

    def macs(self, slots: int) -> float | None:
        """Multiply-accumulates of a run, None without torch to count them."""
        try:
            from dedos_deploy.model.cost import model_cost

            config = self.bundle.manifest.model_config
            size = (self.spec.height, self.spec.width)
            return model_cost(config, size_hw=size, slots=slots).macs * self.spec.batch
        except ImportError:
            return None

    def device_mb(self) -> float | None:
        used = self.engine.device_memory()
        return None if used is None else used / 1e6


def _measure(
    subjects: Sequence[_Subject],
    slots: int,
    size: tuple[int, int],
    frames: int,
    meter: Any,
) -> list[BenchRow]:
    rng = np.random.default_rng(1)
    pictures = [rng.integers(0, 256, (*size, 3), np.uint8) for _ in range(4)]
    runs: dict[str, list[dict[str, float]]] = {subject.name: [] for subject in subjects}
    joules = dict.fromkeys(runs, 0.0)
    for subject in subjects:
        subject.prepare(slots)
        for picture in pictures[:WARM_UP]:
            subject.run(picture)
    for turn in range(frames):
        for subject in subjects if turn % 2 == 0 else reversed(subjects):
            before = meter.read() if meter is not None else 0.0
            runs[subject.name].append(subject.run(pictures[turn % len(pictures)]))
            joules[subject.name] += (meter.read() - before) if meter is not None else 0.0
    energy = {name: value / frames if meter is not None else None for name, value in joules.items()}
    return [
        _row(subject, slots, size, runs[subject.name], energy[subject.name]) for subject in subjects
    ]


def _row(
    subject: _Subject,
    slots: int,
    size: tuple[int, int],
    runs: Sequence[dict[str, float]],
    joules: float | None,
) -> BenchRow:
    parts = [part for part in PARTS if part in runs[0]]
    ms = {part: percentiles([run[part] for run in runs]) for part in parts}
    total = ms["total"]
    return BenchRow(
        bundle=subject.name,
        preset=subject.bundle.manifest.preset,
        precision=subject.bundle.manifest.precision.get("image", "unknown"),
        network_hw=(subject.spec.height, subject.spec.width),
        batch=subject.spec.batch,
        slots=slots,
        frame_hw=size,
        frames=len(runs),
        windows=subject.windows,
        ms=ms,
        jitter=total["p99"] / total["p50"],
        fps=subject.spec.batch * 1e3 * len(runs) / sum(run["total"] for run in runs),
        joules=joules,
        of_matmul=None,
        process_mb=_peak_mb(),
        device_mb=subject.device_mb(),
    )


def _beside_ceiling(row: BenchRow, subject: _Subject, ceilings: Ceilings | None) -> BenchRow:
    macs = subject.macs(row.slots) if ceilings is not None else None
    if macs is None or ceilings is None:
        return row
    per_second = macs * row.windows / (row.ms["engine"]["p50"] / 1e3)
    return replace(row, of_matmul=per_second / ceilings.matmul)


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """Return p50, p90 and p99.

    >>> percentiles([1.0, 2.0, 3.0])["p50"]
    2.0
    """
    three = np.percentile(values, [50, 90, 99])
    return dict(zip(("p50", "p90", "p99"), map(float, three), strict=True))


def _scenes() -> list[NDArray[np.uint8]]:
    from dedos_deploy.scenes import KINDS, render_image

    return [
        render_image(KINDS[index % len(KINDS)], seed=index, size_hw=COMPARED_HW)[0]
        for index in range(COMPARED_FRAMES)
    ]


def _peak_mb() -> float:
    from dedos_deploy.bench.timing import peak_mb

    return peak_mb()


def markdown(report: BenchReport) -> str:
    """Return the rows as a table."""
    lines = [
        "| bundle | size | batch | K | frame | windows | pre | engine | post | total p50 | p90 | p99 | fps |"
        " J | matmul | host MB | GPU MB | same labels |",
        "|" + "---|" * 18,
    ]
    for row in report.rows:
        parts = [f"{row.ms[part]['p50']:.2f}" if part in row.ms else "-" for part in PARTS[:-1]]
        total = [f"{row.ms['total'][name]:.2f}" for name in ("p50", "p90", "p99")]
        lines.append(
            "| "
            + " | ".join(
                [
                    f"{os.path.basename(row.bundle)} ({row.preset}, {row.precision})",
                    f"{row.network_hw[0]}x{row.network_hw[1]}",
                    str(row.batch),
                    str(row.slots),
                    f"{row.frame_hw[0]}x{row.frame_hw[1]}" if row.batch == 1 else "-",
                    str(row.windows),
                    *parts,
                    *total,
                    f"{row.fps:.1f}",
                    "-" if row.joules is None else f"{row.joules:.3f}",
                    "-" if row.of_matmul is None else f"{row.of_matmul:.0%}",
                    f"{row.process_mb:.0f}",
                    "-" if row.device_mb is None else f"{row.device_mb:.0f}",
                    f"{report.agreement[row.bundle]:.2%}",
                ]
            )
            + " |"
        )
    return "\n".join(lines)
