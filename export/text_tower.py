"""The text tower as ONNX: float32 arithmetic on a CPU, weights stored small."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import nn

from dedos_deploy.errors import ParityError
from dedos_deploy.export.graph import save_graph, to_onnx
from dedos_deploy.export.storage import Matrices, store_small
from dedos_deploy.runtime.engines.onnx_runtime import session_options

MIN_COSINE = 0.999
TRACED_TEXTS = 3
MAX_TEXTS = 65536
LEAST_TOKENS = 2
"""Of a row: its start and its end."""


@dataclass(frozen=True)
class TextParity:
    """How close the stored text tower comes to the trained one."""

    texts: int
    """Number compared."""
    min_cosine: float
    """Lowest cosine between an embedding of the stored tower and the one of the FP32 torch
    tower."""


def text_graph(
    tower: nn.Module, *, context_length: int, matrices: Matrices = "half"
) -> onnx.ModelProto:
    """Return `tower`, tokens int64 [N, L] -> embedding float32 [N, D], as ONNX.

    The token table, most of the tower's size, is stored as int8 with one scale per row, other
    weights as float16, or matrices as int8, too; all are turned to float32 when used, so no half
    kernel is needed.
    """
    tokens = torch.zeros(TRACED_TEXTS, context_length, dtype=torch.int64)
    tokens[:, 1] = 2
    dims = {
        0: torch.export.Dim("N", min=1, max=MAX_TEXTS),
        1: torch.export.Dim("L", min=LEAST_TOKENS, max=context_length),
    }
    model = to_onnx(tower, (tokens,), inputs={"tokens": dims}, outputs=["embedding"])
    _quantize_table(model)
    store_small(model, matrices=matrices)
    return model


def save_text_tower(
    tower: nn.Module, path: Path, *, context_length: int, matrices: Matrices = "half"
) -> Path:
    """Write `tower` to `path` and return it; raises ValueError if it needs external data."""
    files = save_graph(text_graph(tower, context_length=context_length, matrices=matrices), path)
    if len(files) > 1:
        raise ValueError(f"the text tower does not fit one file: {files}")
    return path


def check_text_tower(tower: nn.Module, path: Path, tokens: NDArray[np.int64]) -> TextParity:
    """Compare the stored tower with the torch one on `tokens`, int64 [N, L].

    Raises ParityError when an embedding points elsewhere.
    """
    import onnxruntime

    providers = ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(str(path), session_options(), providers=providers)
    (stored,) = session.run(["embedding"], {"tokens": tokens})
    with torch.no_grad():
        expected = tower(torch.from_numpy(tokens)).numpy()
    dots = (stored * expected).sum(-1)
    cosines = dots / (np.linalg.norm(stored, axis=-1) * np.linalg.norm(expected, axis=-1))
    lowest = float(np.min(np.nan_to_num(cosines, nan=-1.0)))
    if lowest < MIN_COSINE:
        raise ParityError(
            f"the stored text tower gives an embedding with cosine {lowest:.5f} to the FP32 one, "
            f"at least {MIN_COSINE} is needed; its weights do not bear int8 and float16 storage"
        )
    return TextParity(len(tokens), lowest)


def _quantize_table(model: onnx.ModelProto) -> None:
    """Turn Gather(table, tokens) into Cast(Gather(int8 table)) * Gather(row scales).

    Rows are dequantized after the lookup: a DequantizeLinear of the whole table would be folded
    into a float32 copy four times its size whenever the tower is loaded.
    """
    graph = model.graph
    tables = {tensor.name: tensor for tensor in graph.initializer}
    index, lookup = next(
        (index, node)
        for index, node in enumerate(graph.node)
        if node.op_type == "Gather" and node.input[0] in tables and node.input[1] == "tokens"
    )
    table = tables[lookup.input[0]]
    values = numpy_helper.to_array(table)
    scales = np.abs(values).max(axis=1, keepdims=True) / 127
    scales[scales == 0] = 1
    rows = np.clip(np.rint(values / scales), -127, 127).astype(np.int8)
    name, result, tokens = table.name, lookup.output[0], lookup.input[1]
    table.CopyFrom(numpy_helper.from_array(rows, f"{name}.int8"))
    graph.initializer.append(numpy_helper.from_array(scales.astype(np.float32), f"{name}.scale"))
    node = onnx.helper.make_node
    replacement = [
        node("Gather", [f"{name}.int8", tokens], [f"{result}.int8"], f"{name}/Gather"),
        node("Cast", [f"{result}.int8"], [f"{result}.float"], f"{name}/Cast", to=1),
        node("Gather", [f"{name}.scale", tokens], [f"{result}.scale"], f"{name}.scale/Gather"),
        node("Mul", [f"{result}.float", f"{result}.scale"], [result], f"{name}/Mul"),
    ]
    _replace(graph, index, replacement)


def _replace(graph: onnx.GraphProto, index: int, replacement: Sequence[onnx.NodeProto]) -> None:
    nodes = list(graph.node)
    nodes[index : index + 1] = replacement
    del graph.node[:]
    graph.node.extend(nodes)
