"""The graph of dense embeddings for words by example, whose constants lie in the image graph's files."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import external_data_helper, numpy_helper

from dedos_deploy.errors import EngineError, ParityError
from dedos_deploy.export.fuse_attention import fuse_attention
from dedos_deploy.export.graph import check_ops, to_onnx
from dedos_deploy.export.shared_weights import SHARED_FROM
from dedos_deploy.export.storage import store_small
from dedos_deploy.model.dense_embedding import dense_embedding
from dedos_deploy.model.freeze import FrozenDedos
from dedos_deploy.pictures import Picture
from dedos_deploy.runtime.engines.embedding import EmbeddingEngine
from dedos_deploy.runtime.frame import resize_frame
from dedos_deploy.spec import GraphSpec

MIN_COSINE = 0.99
"""Lowest mean cosine of the graph's embeddings with those of the torch module that it was made from."""


def examples_graph(
    frozen: FrozenDedos, spec: GraphSpec, text: NDArray[np.float32], *, small: bool, fused: bool
) -> onnx.ModelProto:
    """Return image -> embedding of a frozen model as ONNX for the CPU.

    text: float32 [K, D], rows of the base vocabulary; small, fused: as the image graph is stored and
    written, so that its constants are the same. Raises BadInputError for a model that has none.
    """
    image = torch.zeros(1, spec.height, spec.width, 3, dtype=torch.uint8)
    module = dense_embedding(frozen, torch.from_numpy(text))
    model = to_onnx(module, (image,), inputs={"image": {}}, outputs=[spec.embedding.name])
    if fused:
        fuse_attention(model)
    if small:
        store_small(model)
    check_ops(model, "cpu")
    return model


def save_beside(model: onnx.ModelProto, image_graph: Path, path: Path) -> None:
    """Write `model` to `path`, in the folder of `image_graph`, each constant that is in that file, or in
    one that it names, as a place there; its own constants are gone afterwards.

    The image graph stays as it is, byte for byte.
    """
    places = _places(image_graph)
    for tensor in model.graph.initializer:
        content = numpy_helper.to_array(tensor).tobytes()
        place = places.get(hashlib.sha256(content).digest())
        if len(content) < SHARED_FROM or place is None:
            continue
        # Which takes a tensor only by its bytes.
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name))
        external_data_helper.set_external_data(tensor, place.file, place.offset, len(content))
        tensor.ClearField("raw_data")
    path.write_bytes(model.SerializeToString())


@dataclass(frozen=True)
class _Place:
    file: str
    offset: int


def _places(graph: Path) -> dict[bytes, _Place]:
    """Return where the constants of a saved graph lie, by their SHA-256."""
    model = onnx.load(graph, load_external_data=False)
    content = graph.read_bytes()
    found: dict[bytes, _Place] = {}
    at = 0
    for tensor in model.graph.initializer:
        if external_data_helper.uses_external_data(tensor):
            said = external_data_helper.ExternalDataInfo(tensor)
            with (graph.parent / said.location).open("rb") as stream:
                stream.seek(said.offset or 0)
                values = stream.read(said.length)
            found[hashlib.sha256(values).digest()] = _Place(said.location, said.offset or 0)
        elif len(tensor.raw_data) >= SHARED_FROM:
            # Protobuf writes them in this order, so what was passed need not be looked through again.
            place = content.find(tensor.raw_data, at)
            if place < 0:
                raise EngineError(f"{graph.name} does not hold its constants in their order")
            at = place + len(tensor.raw_data)
            found[hashlib.sha256(tensor.raw_data).digest()] = _Place(graph.name, place)
    return found


def check_examples(
    path: Path,
    frozen: FrozenDedos,
    spec: GraphSpec,
    text: NDArray[np.float32],
    frames: Sequence[Picture],
) -> float:
    """Return the lowest mean cosine over frames between what the saved graph gives and what its module does.

    Raises ParityError below MIN_COSINE, and EngineError for a graph that the runtime does not take.
    """
    module = dense_embedding(frozen, torch.from_numpy(text))
    image = np.empty((spec.height, spec.width, 3), dtype=np.uint8)
    lowest = 1.0
    with EmbeddingEngine(path, spec) as engine, torch.no_grad():
        for frame in frames:
            resize_frame(frame, image)
            found = engine.embed(image).astype(np.float64)
            wanted = module(torch.from_numpy(image)[None])[0].double().numpy()
            products = (found * wanted).sum(0)
            lengths = np.linalg.norm(found, axis=0) * np.linalg.norm(wanted, axis=0)
            lowest = min(lowest, float((products / np.maximum(lengths, 1e-12)).mean()))
    if not lowest >= MIN_COSINE:
        raise ParityError(
            f"the graph for words by example gives embeddings with a cosine of {lowest:.4f} to the model's, "
            f"at least {MIN_COSINE} is needed; leave --examples out, or export with --precision fp32"
        )
    return lowest
