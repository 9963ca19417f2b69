"""The pretrained detail branch: the published net's arithmetic, its place, and its constants."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from dedos_deploy.errors import BadInputError
from dedos_deploy.model import freeze, mobile_branch
from dedos_deploy.model.mobile_branch import MobileBranch
from dedos_deploy.training.pretraining.mobile_weights import load_mobile_weights

from .conftest import frames, micro_config

# (channels out, kernel, stride, dilation, depthwise, relu, index of the residual's source or None)
Layer = tuple[int, int, int, int, bool, bool, int | None]


def published_layers() -> list[Layer]:
    """The Cityscapes net as its file lists it, written down layer by layer."""
    layers: list[Layer] = [(24, 3, 2, 1, False, True, None), (16, 1, 1, 1, False, False, None)]

    def fused(wide: int, out: int, stride: int, residual: bool) -> None:
        layers.append((wide, 3, stride, 1, False, True, None))
        layers.append((out, 1, 1, 1, False, False, len(layers) - 2 if residual else None))

    def separable(
        wide: int, out: int, residual: bool, kernel: int = 3, stride: int = 1, dilation: int = 1
    ) -> None:
        layers.append((wide, 1, 1, 1, False, True, None))
        layers.append((wide, kernel, stride, dilation, True, True, None))
        layers.append((out, 1, 1, 1, False, False, len(layers) - 3 if residual else None))

    fused(128, 24, 2, False)
    for _ in range(3):
        fused(96, 24, 1, True)
    fused(192, 40, 2, False)
    for _ in range(3):
        fused(160, 40, 1, True)
    separable(320, 72, False, stride=2)
    for wide in (288, 288, 288, 576, 288, 288, 288):
        separable(wide, 72, wide == 288)
    separable(576, 120, False, kernel=5)
    for _ in range(3):
        separable(480, 120, True, kernel=5, dilation=2)
    separable(960, 144, False, dilation=2)
    return layers


def write_published(path: Path, *, seed: int = 0, classes: int = 19) -> Path:
    """The net with random weights in the layout of the converted file, built from the list above."""
    random = np.random.default_rng(seed)
    nodes, tensors = [], []

    def conv(source: str, wide: int, layer: Layer, name: str) -> str:
        out, kernel, stride, dilation, depthwise, relu, _ = layer
        inputs = 1 if depthwise else wide
        shape = (out, inputs, kernel, kernel)
        deviation = (2 / (inputs * kernel**2)) ** 0.5
        for suffix, value in (
            ("w", random.normal(0, deviation, shape)),
            ("b", random.normal(0, 0.1, out)),
        ):
            tensors.append(numpy_helper.from_array(value.astype(np.float32), name + suffix))
        pad = (kernel - 1) * dilation // 2
        nodes.append(
            helper.make_node(
                "Conv",
                [source, name + "w", name + "b"],
                [name],
                strides=[stride] * 2,
                dilations=[dilation] * 2,
                kernel_shape=[kernel] * 2,
                pads=[pad] * 4,
                group=wide if depthwise else 1,
            )
        )
        if relu:
            nodes.append(helper.make_node("Relu", [name], [name + "r"]))
        return name + "r" if relu else name

    def flat(out: int) -> Layer:
        return (out, 1, 1, 1, False, True, None)

    for name, value in (("m", 128.0), ("eps", 0.0)):
        tensors.append(numpy_helper.from_array(np.float32(value), name))
    nodes.append(helper.make_node("Sub", ["image", "m"], ["centred"]))
    nodes.append(helper.make_node("Div", ["centred", "m"], ["scaled"]))
    made, widths = ["scaled"], [3]
    for index, layer in enumerate(published_layers()):
        result = conv(made[-1], widths[-1], layer, f"c{index}_")
        if layer[6] is not None:
            nodes.append(helper.make_node("Add", [result, made[layer[6] + 1]], [f"a{index}"]))
            result = f"a{index}"
        made.append(result)
        widths.append(layer[0])
    wide = conv(made[-1], widths[-1], flat(1280), "widen")
    nodes.append(helper.make_node("GlobalAveragePool", [wide], ["mean"]))
    cells = conv(wide, 1280, flat(128), "cell")
    picture = conv("mean", 1280, flat(128), "picture")
    nodes.append(helper.make_node("Mul", [cells, "eps"], ["nothing"]))
    nodes.append(helper.make_node("Add", ["nothing", picture], ["spread"]))
    nodes.append(helper.make_node("Concat", ["spread", cells], ["both"], axis=1))
    joined = conv("both", 256, flat(128), "join")
    nodes.append(helper.make_node("Identity", [joined], ["features"]))
    conv(joined, 128, flat(classes), "classifier")
    for name, source in (("stride4", made[10]), ("stride8", made[18]), ("stride16", made[-4])):
        nodes.append(helper.make_node("Identity", [source], [name]))
    outputs = ("stride4", "stride8", "stride16", "features")
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, "H", "W"])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        tensors,
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), path)
    return path


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_published(tmp_path_factory.mktemp("net") / "cityscapes.onnx")


def published_maps(net: Path, image: Tensor) -> list[NDArray[np.float32]]:
    session = onnxruntime.InferenceSession(str(net), providers=["CPUExecutionProvider"])
    rgb = np.ascontiguousarray(image.numpy()[..., ::-1].transpose(0, 3, 1, 2), np.float32)
    four, eight, sixteen, features = session.run(None, {"image": rgb})
    return [four, eight, np.concatenate([features, sixteen], axis=1)]


def test_it_computes_what_the_published_net_does(
    net: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mobile_branch, "_LATE_STRIDES", frozenset())
    branch = MobileBranch().eval()
    image = frames(1, (65, 97), seed=1)
    load_mobile_weights(branch, net, [image])
    with torch.no_grad():
        found = branch.raw_maps(image)
    for mine, theirs in zip(found, published_maps(net, image), strict=True):
        scale = np.abs(theirs).max()
        np.testing.assert_allclose(mine.numpy() / scale, theirs / scale, atol=2e-6)


def test_cells_lie_under_the_patches(net: Path) -> None:
    """Moved by its own offset, the branch computes inside what the published net does."""
    branch = MobileBranch().eval()
    load_mobile_weights(branch, net, [frames(1, (64, 64))])
    # Far inside a large picture; only the stage-4 map has a small enough field to compare exactly.
    image = frames(1, (129, 129), seed=2)
    moved = image[:, 2:, 2:]
    with torch.no_grad():
        mine = branch.raw_maps(image)[0].numpy()
    theirs = published_maps(net, moved)[0]
    inside = slice(10, 22)
    scale = np.abs(theirs).max()
    np.testing.assert_allclose(
        mine[..., inside, inside] / scale, theirs[..., inside, inside] / scale, atol=2e-6
    )


def test_maps_are_standardised_over_the_pictures_given(net: Path) -> None:
    branch = MobileBranch().eval()
    images = [frames(1, size, seed) for seed, size in enumerate([(64, 96), (96, 64), (80, 80)])]
    load_mobile_weights(branch, net, images)
    with torch.no_grad():
        maps = [branch(image) for image in images]
    for level, width in enumerate(mobile_branch.DETAIL_WIDTHS):
        cells = torch.cat([found[level].flatten(2)[0] for found in maps], dim=1)
        assert len(cells) == width
        mean, deviation = cells.mean(1), cells.std(1, unbiased=False)
        torch.testing.assert_close(mean, torch.zeros(width), atol=1e-3, rtol=0)
        alive = deviation > 0.5
        assert alive.float().mean() > 0.5 and (deviation[~alive] < 1e-3).all()
        torch.testing.assert_close(
            deviation[alive], torch.ones(int(alive.sum())), atol=1e-3, rtol=0
        )


def test_sizes_that_are_no_multiple_of_its_stride_fit_the_score_map() -> None:
    with torch.no_grad():
        maps = MobileBranch().eval()(frames(2, (48, 80)))
    assert [tuple(found.shape) for found in maps] == [
        (2, 24, 12, 20),
        (2, 40, 6, 10),
        (2, 248, 3, 5),
    ]


def _one_conv_less(graph: onnx.GraphProto) -> None:
    graph.node.remove([node for node in graph.node if node.op_type == "Conv"][-1])


def _other_width(graph: onnx.GraphProto) -> None:
    weight = next(tensor for tensor in graph.initializer if tensor.name == "c3_w")
    weight.CopyFrom(numpy_helper.from_array(np.zeros((24, 99, 1, 1), np.float32), "c3_w"))


def _no_constant(graph: onnx.GraphProto) -> None:
    next(tensor for tensor in graph.initializer if tensor.name == "c3_w").name = "elsewhere"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_one_conv_less, "has 61 convolutions, but the detail branch needs .* with 62"),
        (_other_width, r"convolution 3 has weights \[24, 99, 1, 1\], .* needs \[24, 128, 1, 1\]"),
        (_no_constant, "weights 'c3_w' are not constants"),
    ],
)
def test_other_nets_are_refused(
    net: Path, tmp_path: Path, change: Callable[[onnx.GraphProto], None], message: str
) -> None:
    model = onnx.load(net)
    change(model.graph)
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(BadInputError, match=message):
        load_mobile_weights(MobileBranch(), tmp_path / "other.onnx", [])
    (tmp_path / "damaged.onnx").write_bytes(b"nothing")
    with pytest.raises(BadInputError, match="is no ONNX net"):
        load_mobile_weights(MobileBranch(), tmp_path / "damaged.onnx", [])


def test_it_freezes_to_half_and_back_with_the_model() -> None:
    from dedos_deploy.model import build_model

    model = build_model(micro_config(detail="mobile", detail_width=0), seed=1)
    image = frames(1, (32, 48))
    text = nn.functional.normalize(torch.randn(3, model.config.clip.text_width), dim=-1)
    with torch.no_grad():
        whole = model(image, text, torch.ones(3))
        half = freeze(model, size_hw=(32, 48), precision="fp16")(image, text, torch.ones(3))
    assert freeze(
        model, size_hw=(32, 48), precision="fp16"
    ).model.detail.head.join.weight.dtype == (torch.float16)
    torch.testing.assert_close(half, whole, atol=2e-2, rtol=0)
