"""Theirs, ours and our graph on one picture: differences, labels, seconds."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from dedos_deploy.export.fuse_attention import fuse_attention
from dedos_deploy.export.graph import check_ops, image_graph, save_graph
from dedos_deploy.model import freeze
from dedos_deploy.model.peers import Peer, San, load_peer
from dedos_deploy.runtime.engines.agreement import label_agreement
from dedos_deploy.runtime.engines.onnx_runtime import OnnxEngine
from dedos_deploy.runtime.slots import SlotTable
from dedos_deploy.spec import GraphSpec
from parity.authors import Authors
from parity.models import BUILDERS
from parity.pictures import CLASSES, SIZE, Inputs

THREADS = 2


@dataclass(frozen=True)
class Timed:
    """wall_s, cpu_s: of the fastest of some runs; cpu_s is process time over THREADS cores."""

    wall_s: float
    cpu_s: float


def timed(run: Callable[[], Any], runs: int) -> tuple[Any, Timed]:
    """Return the last result and the least times; other programs only ever add to them."""
    result, walls, spent = None, [], []
    for _ in range(runs):
        wall, cpu = time.perf_counter(), time.process_time()
        result = run()
        walls.append(time.perf_counter() - wall)
        spent.append((time.process_time() - cpu) / THREADS)
    return result, Timed(round(min(walls), 3), round(min(spent), 3))


def write_checkpoint(name: str, size: str, repository: Path, path: Path) -> Authors:
    """Write random weights of the authors' model as they publish theirs; return the model."""
    torch.manual_seed(3)
    build, sizes = BUILDERS[name]
    authors = build(repository, sizes[size])
    torch.save({"model": authors.network.state_dict()}, path)
    return authors


def compare(name: str, size: str, repository: Path, *, runs: int) -> dict[str, Any]:
    """Return differences and times of theirs, ours and our graph at SIZE with CLASSES words.

    max_abs, largest: of the evidence; labels are those of our scores beside their evidence.
    """
    torch.set_num_threads(THREADS)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        checkpoint = Path(folder) / "published.pth"
        authors = write_checkpoint(name, size, repository, checkpoint)
        model = load_peer(checkpoint, name, preset=f"{name}-{size}")
        checkpoint.unlink()
        inputs = Inputs.random((SIZE, SIZE), CLASSES, model.config.clip.text_width)
        whole, eager = timed(lambda: authors.whole(inputs.rgb, inputs.text).numpy(), runs)
        theirs = authors.scores(inputs.rgb, inputs.text)
        ones = torch.ones(CLASSES)
        ours = _evidence(model, inputs, ones)
        scores = model(inputs.image, inputs.text, ones)[0]
        graph, deployed = _deployed(model, inputs, Path(folder), runs)
    return {
        "peer": model.config.preset,
        "max_abs": float((ours - theirs).abs().max()),
        "largest": float(theirs.max()),
        "same_labels": float((scores.argmax(0) == theirs.argmax(0)).float().mean()),
        "same_labels_full_size": float((_full_size(scores) == whole.argmax(0)).mean()),
        "graph_max_abs": float(np.abs(graph - scores.numpy()).max()),
        "graph_same_labels": label_agreement(scores.numpy(), graph, (SIZE, SIZE)),
        "theirs_eager": asdict(eager),
        "ours_deployed": asdict(deployed),
    }


def _evidence(model: Peer, inputs: Inputs, valid: Tensor) -> Tensor:
    scores = model.evidence if isinstance(model, San) else model
    return scores(inputs.image, inputs.text, valid)[0]  # type: ignore[no-any-return]


def _full_size(scores: Tensor) -> NDArray[np.int64]:
    resized = F.interpolate(scores[None], size=(SIZE, SIZE), mode="bilinear")
    labels: NDArray[np.int64] = resized[0].argmax(0).numpy()
    return labels


def _deployed(
    model: Peer, inputs: Inputs, folder: Path, runs: int
) -> tuple[NDArray[np.float32], Timed]:
    """Return the graph's scores [K, h, w], and the times of a frame from resize to label map."""
    spec = GraphSpec(SIZE, SIZE, model.config.clip.text_width)
    graph = image_graph(freeze(model, size_hw=(SIZE, SIZE)), spec)
    for target in ("cpu", "rtx", "trt"):
        check_ops(graph, target)
    fuse_attention(graph)
    path = save_graph(graph, folder / "model.onnx")[0]
    del graph
    text, image = inputs.text.numpy(), inputs.image.numpy()
    ones = np.ones(CLASSES, np.float32)
    names = tuple(str(index) for index in range(CLASSES))
    ids = np.arange(CLASSES)
    table = SlotTable(
        1, names, tuple(ids), text, ones, np.zeros_like(ones), ids.astype(np.uint16), ()
    )
    with OnnxEngine(path, spec, threads=THREADS) as engine:
        scores = engine.infer({"image": image, "text": text, "valid": ones})["scores"][0].copy()
        labeller = engine.labeller(threads=THREADS)
        _, times = timed(lambda: labeller.label(image[0], table), runs)
    return scores, times
