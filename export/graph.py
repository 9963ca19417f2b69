"""The frozen module as a typed ONNX graph, and the rules such a graph must keep."""

from __future__ import annotations

import ast
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import onnx
import torch
from torch import nn

from dedos_deploy.errors import EngineError
from dedos_deploy.spec import MAX_CLASSES, GraphSpec, Target
from dedos_deploy.version import __version__

OPSET = 18
IR_VERSION = 10
"""Readable by ONNX Runtime 1.18 and by the parser of TensorRT 10.3."""

EXTERNAL_BYTES = 1_500_000_000
"""Weights beyond this go to a file of their own: a protobuf message ends at 2 GiB."""

TRACED_SLOTS = 7
"""Slots of the example that is traced: unlike any fixed axis of the model, and not 0 or 1, which
torch.export would freeze into the graph."""

_OUTPUT = "graph_output"
"""Followed by its number."""

_FORBIDDEN = {
    "Einsum": "write the contraction as MatMul",
    "NonZero": "TensorRT for RTX has no such layer; mask by arithmetic",
    "ScatterND": "write torch.where instead of an index assignment",
    "ScatterElements": "write torch.where instead of an index assignment",
    "If": "the graph must have one path",
    "Loop": "the graph must have a fixed length",
    "Scan": "the graph must have a fixed length",
}
_FORBIDDEN_FOR_TENSORRT = {
    "GridSample": "TensorRT miscompiles it; freeze with deformable='gather'",
}
_DOMAINS: dict[Target, frozenset[str]] = {
    "cpu": frozenset({"", "ai.onnx", "com.microsoft"}),
    "cuda": frozenset({"", "ai.onnx"}),
    "rtx": frozenset({"", "ai.onnx"}),
    "trt": frozenset({"", "ai.onnx"}),
}


def image_graph(module: nn.Module, spec: GraphSpec) -> onnx.ModelProto:
    """Return `module` as ONNX, with the tensors that `spec` names.

    module: frozen network, (image uint8 [B, H, W, 3], text float32 [K, D], valid float32 [K]) ->
    scores [B, K, h, w], and pooled features where `spec` has them. K is a dynamic axis, everything else
    is fixed.

    The same module gives the same bytes: no time stamps, no source locations.
    Raises EngineError when the traced tensors are not those of `spec`.
    """
    image = torch.zeros(spec.batch, spec.height, spec.width, 3, dtype=torch.uint8)
    text = torch.nn.functional.normalize(torch.ones(TRACED_SLOTS, spec.text_width), dim=-1)
    slots = torch.export.Dim("K", min=1, max=MAX_CLASSES)
    model = to_onnx(
        module,
        (image, text, torch.ones(TRACED_SLOTS)),
        inputs={"image": {}, "text": {0: slots}, "valid": {0: slots}},
        outputs=[tensor.name for tensor in spec.outputs],
    )
    check_tensors(model, spec)
    return model


def to_onnx(
    module: nn.Module,
    example: tuple[torch.Tensor, ...],
    *,
    inputs: dict[str, dict[int, torch.export.Dim]],
    outputs: Sequence[str],
) -> onnx.ModelProto:
    """Trace `module` on `example` and return the tidied graph.

    inputs: name of every input and its dynamic axes, in the order of `forward`'s parameters; outputs:
    names of what it returns.
    """
    with torch.no_grad(), _quietly():
        program = torch.onnx.export(
            module.eval(),
            example,
            dynamo=True,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=[f"{_OUTPUT}{index}" for index in range(len(outputs))],
            dynamic_shapes=tuple(axes or None for axes in inputs.values()),
            verbose=False,
        )
    if program is None:
        raise EngineError("torch.onnx.export returned no program; use torch 2.6 or newer")
    _restore_constants(program)
    model: onnx.ModelProto = program.model_proto
    _check_complete(model.graph)
    _rename_outputs(model.graph, outputs)
    return _tidied(model)


def check_ops(model: onnx.ModelProto, target: Target) -> None:
    """Raise EngineError naming the first node that `target` cannot run, or runs wrongly."""
    if model.functions:
        raise EngineError(
            f"the graph calls the function {model.functions[0].name!r}, which was not inlined; "
            f"export with torch 2.6 or newer and onnxscript 0.3 or newer"
        )
    tensorrt = target in ("rtx", "trt")
    forbidden = _FORBIDDEN | (_FORBIDDEN_FOR_TENSORRT if tensorrt else {})
    for node in all_nodes(model.graph):
        if node.op_type in forbidden:
            raise EngineError(
                f"node {node.name!r} is a {node.op_type}, which {target} graphs may not have: "
                f"{forbidden[node.op_type]}"
            )
        if node.op_type == "Resize" and string_attribute(node, "mode") == "cubic":
            raise EngineError(
                f"node {node.name!r} is a cubic Resize, which TensorRT does not compute as torch "
                f"does; resize constants before export and features bilinearly"
            )
        if node.domain not in _DOMAINS[target]:
            raise EngineError(
                f"node {node.name!r} is a {node.op_type} of domain {node.domain!r}, which "
                f"{target} graphs may not have: {', '.join(filter(None, _DOMAINS[target]))}"
            )


def check_tensors(model: onnx.ModelProto, spec: GraphSpec) -> None:
    """Raise EngineError unless inputs and outputs are exactly those of `spec`."""
    graph = model.graph
    expected = (*spec.inputs, *spec.outputs)
    names = [value.name for value in (*graph.input, *graph.output)]
    if names != [tensor.name for tensor in expected]:
        wanted = ", ".join(tensor.name for tensor in expected)
        raise EngineError(f"the graph has the tensors {', '.join(names)} instead of {wanted}")
    for value, tensor in zip((*graph.input, *graph.output), expected, strict=True):
        kind = value.type.tensor_type
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name
        shape = tuple(dim.dim_param or dim.dim_value for dim in kind.shape.dim)
        if (dtype, shape) != (tensor.dtype, tensor.shape):
            raise EngineError(
                f"tensor {value.name!r} of the graph is {dtype} {list(shape)} instead of "
                f"{tensor.dtype} {list(tensor.shape)}"
            )


def save_graph(model: onnx.ModelProto, path: Path, *, external: bool = False) -> tuple[Path, ...]:
    """Write `model` and return its files: one, or two when the weights are too large for one.

    external: two in any case, which a runtime loads without holding the weights twice. The constants
    of `model` itself are gone after two files were written.
    """
    if weight_bytes(model) <= EXTERNAL_BYTES and not external:
        onnx.save(model, os.fspath(path))
        return (path,)
    data = path.with_name(path.name + ".data")
    onnx.save(
        model,
        os.fspath(path),
        save_as_external_data=True,
        all_tensors_to_one_file=True,
        location=data.name,
        size_threshold=1024,
    )
    return path, data


def weight_bytes(model: onnx.ModelProto) -> int:
    """Return the size of the stored constants in bytes."""
    return sum(tensor_bytes(tensor) for tensor in model.graph.initializer)


def tensor_bytes(tensor: onnx.TensorProto) -> int:
    """Return how many bytes the values of a tensor take."""
    count = 1
    for side in tensor.dims:
        count *= side
    return int(count * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)


def all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Yield every node, those of sub-graphs included."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                yield from all_nodes(inner)


def string_attribute(node: onnx.NodeProto, name: str) -> str:
    """Return a string attribute of `node`, "" when it has none of that name."""
    return next((a.s.decode() for a in node.attribute if a.name == name), "")


@contextmanager
def _quietly() -> Iterator[None]:
    """Silence what torch and onnxscript say of every graph of ours and no user can act on."""
    folding = logging.getLogger("onnxscript.optimizer._constant_folding")
    level = folding.level
    with warnings.catch_warnings():
        # That two inputs share the axis K, which is what we asked for.
        warnings.filterwarnings("ignore", message=".*axis name.*will not be used")
        # That a LayerNorm of constant queries is computed at run time.
        folding.setLevel(logging.ERROR)
        try:
            yield
        finally:
            folding.setLevel(level)


def _restore_constants(program: torch.onnx.ONNXProgram) -> None:
    """Put back constants that onnxscript's rewriting dropped from the graph.

    Its fusion of Min and Max into Clip names the bounds after the clipped value, so a value that is
    clipped twice, as deformable sampling does, keeps one pair of bounds and loses the other.
    """
    graph = program.model.graph
    kept = {id(value) for value in (*graph.inputs, *graph.initializers.values())}
    for node in graph:
        for value in node.inputs:
            if value is None or value.producer() is not None or id(value) in kept:
                continue
            if value.const_value is not None:
                value.name = f"{value.name}.{len(graph.initializers)}"
                graph.initializers[value.name] = value
                kept.add(id(value))


def _check_complete(graph: onnx.GraphProto) -> None:
    known = {value.name for value in (*graph.input, *graph.initializer)}
    for node in graph.node:
        for name in node.input:
            if name and name not in known:
                raise EngineError(
                    f"the exported graph lacks {name!r}, an input of node {node.name!r}; this is a "
                    f"fault of the installed onnxscript, try another version of it"
                )
        known.update(node.output)


def _rename_outputs(graph: onnx.GraphProto, outputs: Sequence[str]) -> None:
    """Give the outputs their names; torch may use the same ones inside (`embedding` is an operation)."""
    renamed = {name: f"{name}.inner" for name in outputs}
    renamed |= {f"{_OUTPUT}{index}": name for index, name in enumerate(outputs)}
    for value in (*graph.value_info, *graph.output):
        value.name = renamed.get(value.name, value.name)
    for node in graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                names[index] = renamed.get(name, name)


def _tidied(model: onnx.ModelProto) -> onnx.ModelProto:
    """Name nodes and weights after the modules they come from; drop what torch adds for itself.

    torch writes stack traces with absolute paths into every node: they would leak the exporter's
    directories into bundles and make two exports differ.
    """
    graph = model.graph
    _name_after_modules(graph)
    for holder in (
        model,
        graph,
        *graph.node,
        *graph.input,
        *graph.output,
        *graph.value_info,
        *graph.initializer,
    ):
        holder.ClearField("metadata_props")
        holder.ClearField("doc_string")
    graph.name = "dedos"
    model.ir_version = IR_VERSION
    model.producer_name, model.producer_version = "dedos-deploy", __version__
    model.domain = ""
    return model


def _name_after_modules(graph: onnx.GraphProto) -> None:
    weights = {tensor.name: tensor for tensor in graph.initializer}
    taken: dict[str, int] = {}
    renamed: dict[str, str] = {}
    for node in graph.node:
        scope = _module_scope(node)
        node.name = _unique(f"{scope}/{node.op_type}" if scope else node.op_type, taken)
        if node.op_type in ("MatMul", "Gemm") and len(node.input) > 1:
            weight = weights.get(node.input[1])
            # A transposed weight is a new constant that has lost the name of its parameter.
            if weight is not None and weight.name.startswith("val_") and scope:
                renamed.setdefault(weight.name, _unique(f"{scope}.weight", taken))
    for tensor in graph.initializer:
        tensor.name = renamed.get(tensor.name, tensor.name)
    for value in graph.value_info:
        value.name = renamed.get(value.name, value.name)
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = renamed.get(name, name)


def _module_scope(node: onnx.NodeProto) -> str:
    """Return the dotted path of the module a node was traced in, "" for the outermost."""
    for entry in node.metadata_props:
        if entry.key == "pkg.torch.onnx.name_scopes":
            scopes: list[str] = ast.literal_eval(entry.value)
            return scopes[-2] if len(scopes) > 1 and not scopes[0] else ""
    return ""


def _unique(name: str, taken: dict[str, int]) -> str:
    taken[name] = taken.get(name, 0) + 1
    return name if taken[name] == 1 else f"{name}_{taken[name]}"
