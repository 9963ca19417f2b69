"""A model as the graph that one target runs: how it is sampled, what it may hold, how scores leave."""

from __future__ import annotations

from dataclasses import dataclass

import onnx
import torch

from dedos_deploy.export.fuse_attention import fuse_attention
from dedos_deploy.export.graph import check_ops, image_graph
from dedos_deploy.export.precision import PrecisionReport, check_precision
from dedos_deploy.model import FrozenDedos, freeze
from dedos_deploy.model.blocks import Arithmetic
from dedos_deploy.model.freeze import AnyModel
from dedos_deploy.model.pooled import PooledDedos
from dedos_deploy.spec import TYPED_TARGETS, DType, GraphSpec, Precision, Target


@dataclass(frozen=True, eq=False)
class TargetGraph:
    """The frozen module and its graph."""

    frozen: FrozenDedos
    model: onnx.ModelProto
    kind: Precision
    """Precision of the graph."""
    precision: PrecisionReport
    fused: int
    """Number of attention blocks rewritten."""


def target_graph(model: AnyModel, spec: GraphSpec, kind: Arithmetic, target: Target) -> TargetGraph:
    """Return `model` frozen and traced for `target`, with the tensors of `spec`.

    Raises EngineError for a graph that the target cannot run, or of another precision.
    """
    frozen = freeze(
        model,
        size_hw=(spec.height, spec.width),
        precision=kind,
        deformable="gather" if target in TYPED_TARGETS else "grid_sample",
        score_dtype=getattr(torch, spec.score_dtype),
    )
    graph = image_graph(PooledDedos(frozen) if spec.pooled_width else frozen, spec)
    fused = fuse_attention(graph) if target == "cpu" else 0
    check_ops(graph, target)
    return TargetGraph(frozen, graph, kind, check_precision(graph, kind), fused)


def score_dtype(model: AnyModel, precision: Precision, target: Target) -> DType:
    """Return the type in which scores leave: float16 where they are computed in it and a GPU reads on.

    Nothing is rounded by that. A CPU's label map reads float32, and would have to convert them.
    """
    halved = precision == "fp16" and target != "cpu" and model.half_scores
    return "float16" if halved else "float32"
