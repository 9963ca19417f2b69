"""Small bundles through every engine that is here: the gate, class changes, and first uses."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.bundle import Bundle
from dedos_deploy.errors import DedosError
from dedos_deploy.runtime import Segmenter, open_engine
from dedos_deploy.runtime.gpu.cuda import Cuda
from dedos_deploy.user_cache import CACHE_VARIABLE
from first_run.device import flavours, gpu, has_onnx_cuda, needed, some_flavour, spread
from first_run.steps import Failed, Record

sys.path.append(str(Path(__file__).parents[2] / "tests" / "runtime"))

FRAME_HW = (480, 640)
MOST_ERROR = 2e-3
RUNS = 100
CHANGES = 1000
MOST_GROWTH = 2**22
WORDS = ("red,green,blue", "green", "blue,table,chair,red", "red,lamp,shelf,door,window")
FRAMES_PER_LIST = 8
"""Frames that are timed after a change of the words, the first one among them."""


def engines(record: Record) -> None:
    """Note of every engine: the gate's verdict, the largest difference to ONNX Runtime, times."""
    names = ["cpu", *_on_gpu(record, gpu(record))]
    wrong = []
    with _fresh_cache(record) as cache:
        bundle = _tiny(record)
        for name in names:
            try:
                record.note(**{name: engine_facts(bundle, name)})
            except DedosError as error:
                wrong.append(f"{name}: {error}")
        verdicts = {path.stem: json.loads(path.read_text()) for path in cache.rglob("*.check.json")}
        record.note(gates=verdicts)
    if wrong:
        raise Failed("; ".join(wrong))


def engine_facts(bundle: Path, name: str) -> dict[str, Any]:
    """Return what an engine says of itself, its difference to the CPU's and its milliseconds a frame."""
    from tiny_bundle import stripes

    began_s = time.monotonic()
    with Bundle.open(bundle) as opened, open_engine(opened, name) as engine:
        opened_s = time.monotonic() - began_s
        with open_engine(opened, "cpu") as reference:
            differences = {
                slots: _difference(engine, reference, slots) for slots in (1, 16, 17, 100, 256)
            }
        facts = engine.facts()
    worst = max(differences.values())
    if not worst < MOST_ERROR:
        raise DedosError(f"scores differ by {worst:.4f} from ONNX Runtime's on the CPU")
    frame = stripes(*FRAME_HW)
    with Segmenter.load(bundle, classes=WORDS[0], engine=name, background="none") as segmenter:
        times = _frame_times(segmenter, frame, RUNS)
    return {
        "open_s": round(opened_s, 2),
        "facts": facts,
        "max_abs_by_slots": differences,
        "frame_ms": spread(times),
    }


def class_changes(record: Record) -> None:
    """Change the words a thousand times on every engine. Raises Failed when memory is not steady."""
    from tiny_bundle import stripes

    cuda = gpu(record)
    frame, grown = stripes(*FRAME_HW), []
    with _fresh_cache(record):
        bundle = _tiny(record)
        for name in _on_gpu(record, cuda):
            with Segmenter.load(bundle, classes=WORDS[0], engine=name) as segmenter:
                change_words(segmenter, frame, 2 * len(WORDS))
                before = cuda.free_memory()[0]
                times = change_words(segmenter, frame, CHANGES)
                taken = before - cuda.free_memory()[0]
            record.note(**{name: {"taken_bytes": taken, "change_and_frame_ms": spread(times)}})
            if abs(taken) >= MOST_GROWTH:
                grown.append(f"{name} by {taken} bytes")
    if grown:
        raise Failed(f"memory of the device changed: {', '.join(grown)}")


def change_words(segmenter: Segmenter, frame: NDArray[np.uint8], changes: int) -> list[float]:
    """Return the milliseconds of each change with the frame that follows."""
    times = []
    for change in range(changes):
        began_s = time.perf_counter()
        segmenter.set_classes(WORDS[change % len(WORDS)])
        segmenter.segment(frame)
        times.append(1e3 * (time.perf_counter() - began_s))
    return times


def first_use(record: Record) -> None:
    """Note the frames around 16 → 17 → 65 words of nano in FP16, whose buckets differ."""
    cuda = gpu(record)
    found = some_flavour(record, cuda)
    needed("torch", "onnx", "onnxscript")
    from dedos_deploy.scenes import render_image

    frame, _ = render_image("street", seed=7, size_hw=FRAME_HW)
    with _fresh_cache(record):
        bundle = nano(record.models)
        for target in found:
            began_s = time.monotonic()
            with Segmenter.load(
                bundle, classes=some_words(16), engine=target, background="none"
            ) as segmenter:
                load_s = time.monotonic() - began_s
                stalls = stalls_ms(segmenter, frame, (16, 17, 65, 16))
            record.note(**{target: {"load_s": round(load_s, 2), "frames_ms": stalls}})


def stalls_ms(
    segmenter: Segmenter, frame: NDArray[np.uint8], counts: Sequence[int]
) -> list[dict[str, float]]:
    """Return for each number of words the first frame's milliseconds and the median of the next."""
    found = []
    for count in counts:
        # New words take the text tower's time, which is not the frame's.
        segmenter.set_classes(some_words(count))
        first, *rest = _frame_times(segmenter, frame, FRAMES_PER_LIST)
        found.append({"words": count, "first": round(first, 3), "then": spread(rest)["p50"]})
    return found


def some_words(count: int) -> list[str]:
    """Return so many words."""
    return [f"thing {number}" for number in range(count)]


def nano(models: Path) -> Path:
    """Return the embedded nano as a typed FP16 bundle, exported at the first call."""
    from dedos_deploy.export import ExportOptions, WeightsSource, export_bundle

    dest = models / "nano"
    if not dest.exists():
        options = ExportOptions(precision="fp16", target="trt", frame_count=1)
        export_bundle(WeightsSource(preset="nano"), dest, options=options)
    return dest


def _frame_times(segmenter: Segmenter, frame: NDArray[np.uint8], runs: int) -> list[float]:
    times = []
    for _ in range(runs):
        began_s = time.perf_counter()
        segmenter.segment(frame)
        times.append(1e3 * (time.perf_counter() - began_s))
    return times


def _difference(engine: Any, reference: Any, slots: int) -> float:
    rng, spec = np.random.default_rng(slots), engine.spec
    inputs = {
        "image": rng.integers(0, 256, (1, spec.height, spec.width, 3), np.uint8),
        "text": rng.uniform(0, 0.5, (slots, spec.text_width)).astype(np.float32),
        "valid": (rng.random(slots) > 0.2).astype(np.float32),
    }
    wanted = reference.infer(inputs)["scores"]
    return float(np.abs(engine.infer(inputs)["scores"] - wanted).max())


def _on_gpu(record: Record, cuda: Cuda) -> list[str]:
    """Return the engines that are here, and note why others are not."""
    found = list(flavours(record, cuda))
    if has_onnx_cuda():
        return [*found, "cuda"]
    record.note(missing=record.figures["missing"] | {"cuda": "this ONNX Runtime has no CUDA"})
    return found


def _tiny(record: Record) -> Path:
    needed("onnx", "tokenizers")
    from tiny_bundle import write_tiny_bundle

    path = record.models / "tiny"
    return path if path.exists() else write_tiny_bundle(path, target="trt")


@contextmanager
def _fresh_cache(record: Record) -> Iterator[Path]:
    """Let engines be built anew, kept for this run, and leave the user's own alone."""
    folder = record.models / "cache"
    os.environ[CACHE_VARIABLE] = str(folder)
    yield folder
