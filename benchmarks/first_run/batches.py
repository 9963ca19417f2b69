"""Whether several images per run cost less per image on a GPU, and whether each row is what it is alone.

benchmarks/batches.py asks the same of the CPU.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from first_run.device import gpu, needed, some_flavour, spread
from first_run.graphs import some_inputs, write_graph
from first_run.plans import PlanRunner, build_plan
from first_run.steps import Failed, Record

PRESET = "edge-b"
SLOTS = 64
BATCHES = (1, 2, 4)
RUNS = 100
MOST_ERROR = 0.01
"""Of scores in [0, 1]: other kernels round otherwise, a row that reads its neighbour is far off."""


def batches(record: Record) -> None:
    """Note milliseconds per image at every batch, and how far rows are from the same image alone."""
    cuda = gpu(record)
    found = some_flavour(record, cuda)
    needed("torch", "onnx", "onnxscript")
    alone: dict[str, NDArray[np.float32]] = {}
    wrong = []
    for batch in BATCHES:
        model, spec = write_graph(record.models, PRESET, batch)
        inputs = some_inputs(replace(spec, batch=max(BATCHES)), SLOTS)
        shapes = {name: values.shape for name, values in inputs.items()}
        shapes["image"] = (batch, *shapes["image"][1:])
        for target, (flavour, trt) in found.items():
            plan, build_s = build_plan(trt, flavour, model, shapes, cuda.device.sm)
            with PlanRunner(trt, flavour, plan, cuda, shapes) as runner:
                scores = all_scores(runner, inputs, batch)
                times = [ms / batch for ms in runner.times_ms(RUNS, graph=False)]
            error = float(np.abs(scores - alone.setdefault(target, scores)).max())
            record.note(
                **{
                    f"{target}_{batch}": {
                        "ms_per_image": spread(times),
                        "max_abs": error,
                        "build_s": round(build_s, 1),
                    }
                }
            )
            if not error < MOST_ERROR:
                wrong.append(f"{target} at batch {batch}: {error:.3f}")
    if wrong:
        raise Failed(f"rows differ from the same image alone: {', '.join(wrong)}")


def all_scores(
    runner: PlanRunner, inputs: dict[str, NDArray[Any]], batch: int
) -> NDArray[np.float32]:
    """Return the scores of all images of `inputs`, so many per run."""
    images = inputs["image"]
    parts = [
        runner.run(inputs | {"image": images[first : first + batch]})["scores"]
        for first in range(0, len(images), batch)
    ]
    return np.concatenate(parts).astype(np.float32)
