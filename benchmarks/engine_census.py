"""What a TensorRT for RTX engine is made of: kernels, casts, attention, and what it writes to memory.

A graph with random weights is built as `dedos-export --target rtx --precision fp16` builds it, for one
GPU, and TensorRT's own list of kernels, which it gives at the end of a detailed build, is counted for
one slot bucket. No GPU and no driver is needed, and nothing is timed. --graph counts a graph that lies
in a file, such as the model.onnx of a bundle of another version.

casts            Cast operations inside kernels; one that shares a kernel costs next to nothing
softmax          kernels that compute a softmax outside of fused attention
attention        softmax(q kT) v over two products of activations in the graph
fused_attention  kernels that compute one of them whole
kernels          all kernels of a frame; pointwise: those without a matrix product or convolution
intermediate_mb  what all kernels of a frame write, scores included, MB

    python benchmarks/engine_census.py --preset edge-b --json
    python benchmarks/engine_census.py --preset edge-b --slots 16 --list
    python benchmarks/engine_census.py --graph bundle/model.onnx
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import onnx
import torch

from dedos_deploy.calib.wiring import Wiring
from dedos_deploy.errors import BadInputError, DedosError, EngineError
from dedos_deploy.export.graph import save_graph
from dedos_deploy.export.rtx import require_rtx
from dedos_deploy.export.target_graph import score_dtype, target_graph
from dedos_deploy.export.weights import WeightsSource
from dedos_deploy.model.heads import DenseClip
from dedos_deploy.model.heads.null_words import STUFF_WORDS
from dedos_deploy.presets import DENSE_PRESETS, PRESETS
from dedos_deploy.runtime.gpu.build import BuildOptions, build_engine
from dedos_deploy.runtime.gpu.flavours import TENSORRT_RTX
from dedos_deploy.spec import SLOT_BUCKETS, GraphSpec

FUSED = "_gemm_mha"
"""Beginning of the names of fused attention kernels."""

BYTES = {"UInt8": 1, "Int8": 1, "Bool": 1, "Half": 2, "Int32": 4, "Float": 4, "Int64": 8}

_KERNEL = re.compile(
    r"Name: (?P<name>.+?), LayerType: (?P<kind>\w+), Inputs: .*?"
    r"Outputs: (?P<outputs>.*?), TacticName: .*?Metadata: (?P<operations>.*)"
)
_TENSOR = re.compile(r"Dimensions: \[([\d,]*)\].*?Datatype: (\w+)")
_PROFILE = re.compile(r"_myl(\d+)_\d+$")
_SHORTENED = "Etc"
_BETWEEN = ("Cast", "Add", "Mul")
"""Operations between the product of queries and keys and its softmax."""


@dataclass(frozen=True)
class Kernel:
    """A kernel of an engine."""

    name: str
    """By TensorRT: the operations inside, or for a product its node in the graph."""
    kind: str
    """`kgen` was generated for this graph, others come from libraries."""
    profile: int
    written: int
    """Bytes."""
    operations: tuple[str, ...]
    """Nodes of the graph, as far as TensorRT says."""

    @property
    def casts(self) -> int:
        # A long name is cut off, and then the nodes tell.
        if _SHORTENED in self.name:
            return sum("/Cast" in operation for operation in self.operations)
        return self.name.count("Cast")

    @property
    def fused(self) -> bool:
        return self.name.startswith(FUSED)

    @property
    def softmax(self) -> bool:
        return not self.fused and any("/Softmax" in operation for operation in self.operations)


def kernels_of(lines: Sequence[str]) -> list[Kernel]:
    """Return the kernels that a detailed build lists. Raises EngineError for lines of another form."""
    found = [_kernel(line) for line in lines if "LayerType: " in line]
    if not found:
        raise EngineError("TensorRT for RTX listed no kernels; this reads the list of 1.7")
    return found


def _kernel(line: str) -> Kernel:
    parts = _KERNEL.match(line)
    place = None if parts is None else _PROFILE.search(parts["name"])
    if parts is None or place is None:
        raise EngineError(
            f"TensorRT for RTX describes a kernel as {line[:80]!r}; this reads the list of 1.7"
        )
    written = sum(
        prod(int(side) for side in dims.split(",") if side) * BYTES[kind]
        for dims, kind in _TENSOR.findall(parts["outputs"])
    )
    operations = tuple(re.findall(r"ONNX Layer: ([^\]]*)\]", parts["operations"]))
    return Kernel(parts["name"], parts["kind"], int(place[1]), written, operations)


def attentions(graph: onnx.GraphProto) -> int:
    """Return how many softmaxes of a product of two activations weigh a third one.

    A softmax whose logits something else reads, too, cannot be fused and does not count.
    """
    wiring = Wiring(graph)
    softmaxes = (node for node in graph.node if node.op_type == "Softmax")
    return sum(_is_attention(wiring, node) for node in softmaxes)


def _is_attention(wiring: Wiring, softmax: onnx.NodeProto) -> bool:
    name = softmax.output[0]
    while (cast := wiring.only_consumer(name, "Cast")) is not None:
        name = cast.output[0]
    mixed = wiring.only_consumer(name, "MatMul")
    if mixed is None or mixed.input[0] != name or wiring.weight_of(mixed) is not None:
        return False
    return any(wiring.weight_of(product) is None for product in _logits(wiring, softmax.input[0]))


def _logits(wiring: Wiring, name: str) -> Iterator[onnx.NodeProto]:
    """Yield the products that make `name` and nothing else, through casts, scales and biases."""
    if len(wiring.consumers(name)) != 1:
        return
    product = wiring.producer(name, "MatMul")
    if product is not None:
        yield product
        return
    for kind in _BETWEEN:
        node = wiring.producer(name, kind)
        if node is not None:
            for source in node.input:
                yield from _logits(wiring, source)


def built(path: Path, spec: GraphSpec, capability: str) -> tuple[list[Kernel], int, float]:
    """Return the kernels of an engine, its bytes, and the seconds of its build."""
    trt = require_rtx((capability,))
    options = BuildOptions(capabilities=(capability,), described=True)
    started = time.perf_counter()
    engine = build_engine(trt, TENSORRT_RTX, path, spec, options)
    return kernels_of(engine.kernels), len(engine.engine), time.perf_counter() - started


def write_graph(preset: str, folder: Path) -> Path:
    """Write the graph of random weights as an export would, and return its file."""
    model = WeightsSource(preset=preset, random=True).load().model
    (height, width), text_width = model.config.size_hw, model.config.clip.text_width
    if isinstance(model, DenseClip):
        rows = torch.randn(len(STUFF_WORDS), text_width, generator=torch.Generator().manual_seed(0))
        model.word_logits.set_nulls(torch.nn.functional.normalize(rows, dim=-1))
    spec = GraphSpec(height, width, text_width, score_dtype=score_dtype(model, "fp16", "rtx"))
    return save_graph(target_graph(model, spec, "fp16", "rtx").model, folder / "model.onnx")[0]


def spec_of(graph: onnx.GraphProto, name: str) -> GraphSpec:
    """Return the contract of a graph; name: of its file. Raises BadInputError for other tensors."""
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in graph.input
    }
    if list(shapes) != ["image", "text", "valid"]:
        raise BadInputError(
            f"{name} has the inputs {', '.join(shapes)}, not image, text, valid; give the "
            "model.onnx of a bundle for rtx or trt"
        )
    batch, height, width, _ = shapes["image"]
    return GraphSpec(height, width, shapes["text"][1], batch)


def census(path: Path, *, slots: int, capability: str) -> tuple[dict[str, Any], list[Kernel]]:
    """Return the counts of the engine of a graph for `slots`, and its kernels in their order."""
    if not path.is_file():
        raise BadInputError(f"there is no graph {str(path)!r}; give the model.onnx of a bundle")
    graph = onnx.load(path, load_external_data=False).graph
    kernels, size, seconds = built(path, spec_of(graph, path.name), capability)
    own = [kernel for kernel in kernels if kernel.profile == SLOT_BUCKETS.index(slots)]
    return {
        "casts": sum(kernel.casts for kernel in own),
        "softmax": sum(kernel.softmax for kernel in own),
        "attention": attentions(graph),
        "fused_attention": sum(kernel.fused for kernel in own),
        "kernels": len(own),
        "pointwise": sum(kernel.kind == "kgen" and not kernel.fused for kernel in own),
        "intermediate_mb": round(sum(kernel.written for kernel in own) / 1e6, 1),
        "slots": slots,
        "profiles": list(SLOT_BUCKETS),
        "engine_mb": round(size / 1e6, 1),
        "build_s": round(seconds, 1),
        "compute_capability": capability,
        "tensorrt_rtx": require_rtx((capability,)).__version__,
    }, own


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    subject = parser.add_mutually_exclusive_group(required=True)
    subject.add_argument("--preset", choices=[*PRESETS, *DENSE_PRESETS])
    subject.add_argument("--graph", type=Path, metavar="FILE", help="a typed graph, model.onnx")
    parser.add_argument("--slots", type=int, choices=SLOT_BUCKETS, default=SLOT_BUCKETS[-1])
    parser.add_argument("--capability", default="8.9", help="of the GPU to build for (8.9)")
    parser.add_argument("--list", action="store_true", help="every kernel, with what it writes")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    args = parser.parse_args(argv)
    try:
        with tempfile.TemporaryDirectory() as folder:
            require_rtx((args.capability,))
            path = args.graph or write_graph(args.preset, Path(folder))
            found, kernels = census(path, slots=args.slots, capability=args.capability)
    except DedosError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for kernel in kernels if args.list else ():
        print(f"{kernel.written / 1e6:9.3f} MB  {kernel.name}")
    values = {"subject": args.preset or str(args.graph), **found}
    print("\n".join(f"{name:19} {value}" for name, value in values.items()))
    if args.json:
        print(json.dumps(values))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
