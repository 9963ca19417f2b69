"""The dense CLIP as a whole: words, null rows, windows, and its graph in every form."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor

from dedos_deploy.calib.placement import quantize, site_tensors
from dedos_deploy.calib.sites import find_sites
from dedos_deploy.errors import BadInputError
from dedos_deploy.export.fuse_attention import fuse_attention
from dedos_deploy.export.graph import check_ops, image_graph, save_graph
from dedos_deploy.export.precision import LOGITS, check_precision
from dedos_deploy.head_numbers import HEADS, HeadKind, WindowConfig
from dedos_deploy.model import freeze
from dedos_deploy.model.blocks import Arithmetic
from dedos_deploy.model.heads import STUFF_WORDS, DenseClip, build_dense
from dedos_deploy.model.pooled import PooledDedos, pooled_widths
from dedos_deploy.presets import DenseConfig
from dedos_deploy.runtime.engines.agreement import label_agreement
from dedos_deploy.runtime.engines.onnx_runtime import OnnxEngine
from dedos_deploy.spec import GraphSpec

from .conftest import MICRO_CLIP, frames, unit_rows
from .head_references import f64

SIZE = (48, 64)
KINDS = ("sc-clip", "naclip", "maskclip")
SPEC = GraphSpec(*SIZE, MICRO_CLIP.text_width)


def micro_dense(kind: HeadKind = "sc-clip", windows: WindowConfig | None = None) -> DenseClip:
    config = DenseConfig("micro", MICRO_CLIP, SIZE, HEADS[kind](MICRO_CLIP.layers), windows=windows)
    model = build_dense(config, seed=4)
    with torch.no_grad():  # At its first values a tower sees little of the picture.
        model.trunk.patch_embedding.conv.weight.mul_(10)  # type: ignore[operator, union-attr]
        for block in model.trunk.blocks:
            block.qkv.weight.mul_(3)  # type: ignore[operator, union-attr]
            block.out.weight.mul_(3)  # type: ignore[operator, union-attr]
    model.word_logits.set_nulls(unit_rows(9, MICRO_CLIP.text_width, seed=8))
    return model


def picture() -> Tensor:
    """Twelve squares of a colour each, with noise; uint8 [1, 48, 64, 3]."""
    coarse = frames(1, (3, 4)).repeat_interleave(16, 1).repeat_interleave(16, 2)
    return (coarse // 2 + frames(1, SIZE, seed=1) // 8).to(torch.uint8)


def words(model: DenseClip, count: int) -> Tensor:
    """Return at most 10 rows that tell the patches apart: their principal directions, both signs.

    A little of what all patches share makes them about as near to the patches as the null rows are.
    """
    with torch.no_grad():
        patches = torch.nn.functional.normalize(model.dense(picture())[0], dim=-1)
    mean = patches.mean(0)
    directions = torch.linalg.svd(patches - mean)[2][:5]
    rows = torch.stack([directions, -directions], 1).flatten(0, 1)[:count]
    return torch.nn.functional.normalize(rows + 0.2 * mean / mean.norm(), dim=-1)


def scores(model: DenseClip, text: Tensor, valid: Tensor | None = None) -> Tensor:
    with torch.no_grad():
        valid = torch.ones(len(text)) if valid is None else valid
        return model(picture(), text, valid)  # type: ignore[no-any-return]


def label_counts(scores: Tensor) -> list[int]:
    return torch.bincount(scores[0].argmax(0).flatten()).tolist()


def bilinear_np(grid: np.ndarray, size: int) -> np.ndarray:
    """Resize the last axis with half-pixel centres, edges repeated."""
    count = grid.shape[-1]
    place = ((np.arange(size) + 0.5) * count / size - 0.5).clip(0, count - 1)
    low = np.floor(place).astype(int)
    high = np.minimum(low + 1, count - 1)
    return grid[..., low] * (1 - place + low) + grid[..., high] * (place - low)


def test_scores_are_the_words_part_of_a_softmax_over_words_and_nulls() -> None:
    model = micro_dense()
    text = words(model, 5)
    with torch.no_grad():
        patches = f64(model.dense(picture()))[0]
    patches /= np.linalg.norm(patches, axis=1, keepdims=True)
    rows = np.concatenate([f64(text), f64(model.word_logits.nulls)])
    grid = (rows @ patches.T).reshape(-1, 6, 8)
    tall = bilinear_np(grid.swapaxes(1, 2), 12).swapaxes(1, 2)
    powers = np.exp(40 * bilinear_np(tall, 16))
    expected = powers[:5] / powers.sum(0)
    np.testing.assert_allclose(f64(scores(model, text))[0], expected, atol=2e-5)
    assert len(np.unique(expected.argmax(0))) >= 3 and 0.01 < expected.sum(0).mean() < 0.99


@pytest.mark.parametrize("kind", KINDS)
def test_permuting_words_permutes_scores_and_nothing_else(kind: HeadKind) -> None:
    model = micro_dense(kind)
    text = words(model, 6)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    torch.testing.assert_close(scores(model, text[order]), scores(model, text)[:, order])


def test_padding_slots_change_nothing_and_get_nothing() -> None:
    model = micro_dense()
    text = words(model, 4)
    # As strong as they can be: a used word, and null rows that count, which must not be masked for it.
    nulls = words(model, 6)[4:]
    model.word_logits.set_nulls(torch.cat([model.word_logits.nulls, nulls]))
    padded = torch.cat([text, text[:1], nulls])
    found = scores(model, padded, torch.tensor([1.0] * 4 + [0.0] * 3))
    torch.testing.assert_close(found[:, :4], scores(model, text), atol=1e-6, rtol=1e-5)
    assert not found[:, 4:].any()


def test_more_null_rows_lower_all_words_by_the_same_factor() -> None:
    model = micro_dense()
    text = words(model, 4)
    before = scores(model, text)
    nulls = words(model, 6)[4:]
    model.word_logits.set_nulls(torch.cat([model.word_logits.nulls, nulls]))
    factors = scores(model, text) / before
    assert (factors < 1).all() and factors.min() < 0.9
    torch.testing.assert_close(factors, factors[:, :1].expand_as(factors), atol=1e-5, rtol=1e-5)


def test_a_null_row_that_is_a_users_word_is_masked() -> None:
    model = micro_dense()
    text = words(model, 4)
    before = scores(model, text)
    model.word_logits.set_nulls(torch.cat([model.word_logits.nulls, text[2:3]]))
    torch.testing.assert_close(scores(model, text), before, atol=1e-6, rtol=1e-5)
    others = text[[0, 1, 3]]
    # Without the word itself, its null row counts as the word did.
    torch.testing.assert_close(scores(model, others), before[:, [0, 1, 3]], atol=1e-6, rtol=1e-5)


def test_one_word_is_not_certain_and_without_nulls_it_is() -> None:
    model = micro_dense()
    text = words(model, 1)
    assert scores(model, text).std() > 0.01
    model.word_logits.set_nulls(torch.zeros(0, MICRO_CLIP.text_width))
    assert (scores(model, text) == 1).all()


def test_stuff_words_are_26_different_ones() -> None:
    assert len(set(STUFF_WORDS)) == 26


def test_a_picture_of_one_window_equals_no_windows() -> None:
    square = frames(1, (48, 48))
    for kind in KINDS:
        plain, windowed = micro_dense(kind), micro_dense(kind, WindowConfig(48, 16))
        text, valid = words(plain, 4), torch.ones(4)
        with torch.no_grad():
            torch.testing.assert_close(windowed(square, text, valid), plain(square, text, valid))


def test_windows_are_averaged_where_they_overlap() -> None:
    windows = WindowConfig(48, 24)
    model, alone = micro_dense("sc-clip", windows), micro_dense()
    image, text = frames(1, (56, 80), seed=3), words(alone, 4)
    total, count = np.zeros((13, 14, 20)), np.zeros((14, 20))
    for top in (0, 8):
        for left in (0, 24, 32):
            crop = image[:, top : top + 48, left : left + 48]
            with torch.no_grad():
                part = f64(alone._logits(alone.dense(crop), text, torch.ones(4), (48, 48)))[0]
            rows, columns = slice(top // 4, top // 4 + 12), slice(left // 4, left // 4 + 12)
            total[:, rows, columns] += part
            count[rows, columns] += 1
    powers = np.exp(total / count)
    with torch.no_grad():
        found = model(image, text, torch.ones(4))
    np.testing.assert_allclose(f64(found)[0], powers[:4] / powers.sum(0), atol=2e-5)
    assert set(count.flat) == {1, 2, 3, 4, 6}


@pytest.mark.parametrize("windows", [None, WindowConfig(32, 16)])
def test_of_a_dense_clip_pooled_features_are_the_moments_of_a_pictures_own_patches(
    windows: WindowConfig | None,
) -> None:
    """Of two pictures in a run, whose windows come one after another, each for both."""
    model, images = micro_dense("naclip", windows), frames(2, SIZE, seed=5)
    text, valid = words(micro_dense("naclip"), 3), torch.ones(3)
    frozen = freeze(model, size_hw=SIZE)
    with torch.no_grad():
        scores, found = PooledDedos(frozen)(images, text, valid)
        assert torch.equal(scores, frozen(images, text, valid))
        for row, image in zip(f64(found), images, strict=True):
            patches = f64(model.image_features(image[None])).reshape(-1, MICRO_CLIP.text_width)
            assert len(patches) == (48 if windows is None else 6 * 16)
            moments = np.concatenate([patches.mean(0), patches.std(0)])
            np.testing.assert_allclose(row, moments, atol=1e-4)
    assert pooled_widths(model) == (len(found[0]),)


def test_a_picture_smaller_than_a_window_is_refused() -> None:
    model = micro_dense("sc-clip", WindowConfig(48, 16))
    with pytest.raises(BadInputError, match="40 pixels does not take windows of 48"):
        freeze(model, size_hw=(40, 64))
    with pytest.raises(BadInputError, match="40 pixels does not take windows of 48"):
        model(frames(1, (40, 64)), words(micro_dense(), 2), torch.ones(2))


@pytest.mark.parametrize("windows", [None, WindowConfig(48, 16)])
def test_freezing_folds_exactly_and_half_stays_close(windows: WindowConfig | None) -> None:
    model = micro_dense("sc-clip", windows)
    text = words(model, 7)
    expected = scores(model, text)
    image, valid = picture(), torch.ones(7)
    assert sum(count > 8 for count in label_counts(expected)) >= 3
    with torch.no_grad():
        found = freeze(model, size_hw=SIZE)(image, text, valid)
        half = freeze(model, size_hw=SIZE, precision="fp16")(image, text, valid)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)
    assert half.dtype == torch.float32 and not model.half_scores
    assert label_agreement(expected[0].numpy(), half[0].numpy(), SIZE) >= 0.99
    assert (half - expected).abs().max() < 0.2


def graph_of(model: DenseClip, precision: Arithmetic) -> onnx.ModelProto:
    return image_graph(freeze(model, size_hw=SIZE, precision=precision), SPEC)


def run(graph: onnx.ModelProto, folder: Path, text: Tensor, valid: Tensor) -> np.ndarray:
    (path,) = save_graph(graph, folder / "model.onnx")
    feeds = {"image": picture().numpy(), "text": text.numpy(), "valid": valid.numpy()}
    with OnnxEngine(path, SPEC, threads=1) as engine:
        return engine.infer(feeds)["scores"].copy()


@pytest.fixture(scope="module")
def windowed() -> DenseClip:
    return micro_dense("sc-clip", WindowConfig(48, 16))


@pytest.fixture(scope="module")
def half_graph(windowed: DenseClip) -> onnx.ModelProto:
    return graph_of(windowed, "fp16")


@pytest.mark.parametrize("kind", KINDS)
def test_graph_equals_torch_for_every_target(kind: HeadKind, tmp_path: Path) -> None:
    model = micro_dense(kind)
    graph = graph_of(model, "fp32")
    for target in ("cpu", "rtx", "trt"):
        check_ops(graph, target)  # type: ignore[arg-type]
    assert check_precision(graph, "fp32").islands[LOGITS] >= 2
    ops = {node.op_type for node in graph.graph.node}
    assert not ops & {"GatherND", "Einsum", "NonZero", "ScatterND", "Loop", "If"}
    assert "TopK" not in ops or kind == "sc-clip"
    fuse_attention(graph, min_tokens=16)
    padded, valid = words(model, 9), torch.tensor([1.0] * 6 + [0.0] * 3)
    found = run(graph, tmp_path, padded, valid)
    np.testing.assert_allclose(found, scores(model, padded, valid), atol=5e-5)


def test_half_graph_with_windows(
    half_graph: onnx.ModelProto, windowed: DenseClip, tmp_path: Path
) -> None:
    for target in ("cpu", "rtx", "trt"):
        check_ops(half_graph, target)  # type: ignore[arg-type]
    report = check_precision(half_graph, "fp16")
    assert report.half_weights and report.islands["Softmax"] >= MICRO_CLIP.layers + 2
    types = onnx.shape_inference.infer_shapes(half_graph).graph.value_info
    half = {value.name for value in types if value.type.tensor_type.elem_type == 10}
    cuts = ("TopK", "GreaterOrEqual", "Greater", "Less", "LessOrEqual", "AveragePool")
    for node in half_graph.graph.node:
        assert node.op_type not in cuts or not half & set(node.input), node.name
    text = words(windowed, 7)
    found = run(half_graph, tmp_path, text, torch.ones(7))
    expected = scores(windowed, text)
    assert label_agreement(expected[0].numpy(), found[0], SIZE) >= 0.99


def test_weight_products_are_sites_of_int8(tmp_path: Path) -> None:
    model = micro_dense()
    text = words(model, 7)
    graph = graph_of(model, "fp32")
    names = [site.name for site in find_sites(graph)]
    whole = [f"trunk.blocks.{i}.{part}" for i in range(3) for part in ("qkv", "out", "fc", "proj")]
    # Both runs of the last block are one batch, so each of its products is one site.
    assert sorted(names) == sorted([*whole, "trunk.blocks.3.qkv", "trunk.blocks.3.out"])
    ranges = _largest(graph, text, tmp_path)
    assert quantize(graph, ranges, names, target="cpu") == len(names)
    found = run(graph, tmp_path, text, torch.ones(7))
    expected = scores(model, text)
    assert np.abs(found - expected.numpy()).max() < 0.2
    assert label_agreement(expected[0].numpy(), found[0], SIZE) > 0.8


def _largest(graph: onnx.ModelProto, text: Tensor, folder: Path) -> dict[str, float]:
    import onnxruntime

    looked = onnx.ModelProto()
    looked.CopyFrom(graph)
    names = sorted({tensors.activation for tensors in site_tensors(graph)})
    looked.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    session = onnxruntime.InferenceSession(looked.SerializeToString())
    feeds: dict[str, Any] = {
        "image": picture().numpy(),
        "text": text.numpy(),
        "valid": np.ones(len(text), np.float32),
    }
    return {
        name: float(np.abs(value).max())
        for name, value in zip(names, session.run(names, feeds), strict=True)
    }


def test_rtx_engine_of_a_small_tower(half_graph: onnx.ModelProto, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs pip install 'dedos-deploy[rtx]'")
    from dedos_deploy.export.rtx import build_rtx_engine

    (path,) = save_graph(half_graph, tmp_path / "model.onnx")
    built = build_rtx_engine(
        path, tmp_path, spec=SPEC, precision="fp16", model_sha256="0123456789abcdef" * 4
    )
    content = built.path.read_bytes()
    assert content[:4] == b"vtrt" and built.size == len(content) > 10_000


def test_gelu_towers_differ_only_by_their_activation() -> None:
    quick, config = micro_dense("maskclip"), micro_dense("maskclip").config
    gelu = build_dense(replace(config, clip=replace(config.clip, activation="gelu")), seed=4)
    gelu.load_state_dict(quick.state_dict())
    gelu.word_logits.set_nulls(quick.word_logits.nulls)
    text = words(quick, 3)
    assert (scores(quick, text) - scores(gelu, text)).abs().max() > 1e-4
