"""What may be quantized, found by module name in graphs of both precisions."""

from __future__ import annotations

from dataclasses import replace
from fnmatch import fnmatchcase

import onnx

from dedos_deploy.calib.placement import site_tensors
from dedos_deploy.calib.sites import NEVER, find_products, find_sites, why_never
from dedos_deploy.model import Dedos, build_model
from dedos_deploy.model.refinement import FoldedSets
from dedos_deploy.presets import PRESETS, with_cost


def test_every_linear_and_convolution_is_a_site_or_has_a_reason(
    model: Dedos, float_graph: onnx.ModelProto
) -> None:
    import torch

    kinds = (torch.nn.Linear, torch.nn.Conv2d)
    modules = {
        name
        for name, module in model.named_modules()
        if isinstance(module, kinds) and not name.startswith(("text_tower", "proxy_queries"))
    }
    products = {site.name for site in find_products(float_graph)}
    # Queries and kernels of the decoder that depend on no image are folded into constants.
    assert len(modules & products) >= 0.8 * len(modules)
    sites = {site.name for site in find_sites(float_graph)}
    assert sites | {name for name in products if why_never(name)} == products
    expected = {
        "trunk.blocks.0.qkv",
        "trunk.blocks.1.proj",
        "refinement.keep",
        "detail.stage8.0.0",
        "mask_decoder.layers.0.fc",
        "pixel_decoder.encoder.units.0.pointwise",
    }
    assert expected <= sites
    assert not {"trunk.proj", "refinement.mix", "detail.stem.0.0", "mask_features.out"} & sites


def test_every_exception_names_a_module_of_some_model(float_graph: onnx.ModelProto) -> None:
    import torch

    names = {site.name for site in find_products(float_graph)}  # Folded ones are named there only.
    folded = FoldedSets(*torch.zeros(2, 2, 3, 4), torch.zeros(4, 4), torch.zeros(4), norm=True)
    names |= {f"refinement.{name}" for name, _ in folded.named_modules()}
    paper = PRESETS["paper-l"]
    chosen = (
        with_cost(paper, "catseg"),
        replace(paper, query_source="mixed", query_sets=2),
        replace(paper, query_source="clip"),
    )
    for config in (*PRESETS.values(), *chosen):
        with torch.device("meta"):
            names |= {name for name, _ in build_model(config).named_modules()}
    unused = {p for p in NEVER if not any(fnmatchcase(name, p) for name in names)}
    assert not unused


def test_products_of_two_activations_are_no_sites(float_graph: onnx.ModelProto) -> None:
    constants = {tensor.name for tensor in float_graph.graph.initializer}
    matmuls = [node for node in float_graph.graph.node if node.op_type == "MatMul"]
    of_two = {node.name for node in matmuls if not set(node.input) & constants}
    assert of_two and not of_two & {site.node for site in find_sites(float_graph)}


def test_a_module_that_runs_twice_is_found_twice(float_graph: onnx.ModelProto) -> None:
    runs = [site for site in find_sites(float_graph) if site.name == "refinement.keep"]
    assert len(runs) == 2
    assert len({site.activation for site in runs}) == 2 and len({s.weight for s in runs}) == 1


def test_both_precisions_have_the_same_sites(
    float_graph: onnx.ModelProto, half_graph: onnx.ModelProto
) -> None:
    both = [[run.site for run in site_tensors(graph)] for graph in (float_graph, half_graph)]
    assert both[0] == both[1] and len(both[0]) > 25
