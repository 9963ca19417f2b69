"""The micro model of the export tests, and copies of graphs to break."""

from __future__ import annotations

from dataclasses import replace

import onnx

from dedos_deploy.presets import PRESETS, ModelConfig, TextTowerConfig

CONTEXT = 24


def micro_config() -> ModelConfig:
    """Return nano with deformable pixel decoder, cut down to a few channels."""
    nano = PRESETS["nano"]
    clip = replace(
        nano.clip,
        width=32,
        layers=2,
        heads=2,
        grid=3,
        text_width=16,
        text=TextTowerConfig(32, 1, 2, context_length=CONTEXT),
    )
    return replace(
        nano,
        clip=clip,
        size_hw=(32, 48),
        refine_blocks=(1,),
        pixel_decoder="msdeform",
        pixel_layers=1,
        pixel_ffn=32,
        decoder_layers=1,
        decoder_heads=2,
        decoder_ffn=32,
        queries=6,
        query_width=16,
        basic_kernel=(3, 4),
        diffusion_kernel=(2, 4),
        detail="conv",
        detail_width=0,
        aggregation_width=4,
    )


def copied(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy that a test may break."""
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    return copy


def paired(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Return a graph for two frames per run: the one given, once for each row of the image."""
    pair = copied(graph)
    del pair.graph.node[:], pair.graph.value_info[:]
    shared = {"", "text", "valid", *(tensor.name for tensor in graph.graph.initializer)}
    rows = ["image.0", "image.1"]
    nodes = [onnx.helper.make_node("Split", ["image"], rows, "rows", axis=0, num_outputs=2)]
    for row in range(2):
        for node in graph.graph.node:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            copy.name = f"{node.name}.{row}"
            for names in (copy.input, copy.output):
                names[:] = [name if name in shared else f"{name}.{row}" for name in names]
            nodes.append(copy)
        for value in graph.graph.value_info:
            stated = pair.graph.value_info.add()
            stated.CopyFrom(value)
            stated.name = f"{value.name}.{row}"
    nodes.append(onnx.helper.make_node("Concat", ["scores.0", "scores.1"], ["scores"], axis=0))
    pair.graph.node.extend(nodes)
    for value in (pair.graph.input[0], pair.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = 2
    return pair
