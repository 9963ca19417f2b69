"""SAN and CAT-Seg: their authors' own numbers, the graph contract, and checkpoints that do not fit.

`san_micro.npz` and `catseg_micro.npz` hold a small model of the authors' code with what that code
makes of a picture; `benchmarks/peers.py NAME --repository CHECKOUT --golden FILE` wrote them.
"""

from __future__ import annotations

import copy
import re
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from dedos_deploy.errors import BadInputError
from dedos_deploy.export.graph import check_ops, image_graph
from dedos_deploy.model import FrozenDedos, freeze
from dedos_deploy.model.peers import CatSeg, Peer, San, load_peer
from dedos_deploy.model.peers.cat_seg_weights import merged_corner
from dedos_deploy.model.peers.san import pooled_maximum
from dedos_deploy.model.volume_blocks import volume_grid
from dedos_deploy.spec import GraphSpec

from .conftest import frames, unit_rows

NAMES = ("san", "catseg")
SIZES = {"san": (80, 160), "catseg": (96, 128)}
MARKERS = {"san": "side_adapter_network.query_embed", "catseg": "upsample1.bias"}
TEXT_WIDTH = 12

State = dict[str, Tensor]


pytestmark = pytest.mark.usefixtures("one_thread")


def golden(name: str) -> tuple[State, dict[str, Tensor]]:
    """Return the authors' state dict, and image, text and scores."""
    state, expected = _golden(name)
    return dict(state), expected


@cache
def _golden(name: str) -> tuple[State, dict[str, Tensor]]:
    with np.load(Path(__file__).with_name(f"{name}_micro.npz")) as file:
        arrays = {key: torch.from_numpy(file[key]) for key in file.files}
    state = {
        key.removeprefix("tensor:"): value.float()
        for key, value in arrays.items()
        if key.startswith("tensor:")
    }
    return state, {key: arrays[key] for key in ("image", "text", "scores")}


def saved(state: Any, path: Path) -> Path:
    torch.save({"model": state, "iteration": 60000}, path)
    return path


@pytest.fixture(scope="module", params=NAMES)
def peer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Peer:
    name: str = request.param
    path = tmp_path_factory.mktemp(name) / f"{name}.pth"
    return load_peer(saved(golden(name)[0], path), name)


def name_of(peer: Peer) -> str:
    return "san" if isinstance(peer, San) else "catseg"


def bounded(scores: Tensor) -> Tensor:
    """Return the authors' scores [K, h, w] as the contract has them."""
    return scores / scores.amax(0).clamp(min=1)


def run(
    peer: Peer | FrozenDedos, image: Tensor, text: Tensor, valid: Tensor | None = None
) -> Tensor:
    with torch.no_grad():
        scores: Tensor = peer(image, text, torch.ones(len(text)) if valid is None else valid)
    return scores


# The mathematics


def test_scores_are_those_of_the_authors_code(peer: Peer) -> None:
    _, expected = golden(name_of(peer))
    image, text, scores = expected["image"], expected["text"], expected["scores"]
    assert float(scores.std((1, 2)).max()) > 1e-2, "nothing to compare"
    found = run(peer, image, text)[0]
    torch.testing.assert_close(found, bounded(scores), atol=2e-6, rtol=1e-5)
    if isinstance(peer, San):
        with torch.no_grad():
            evidence = peer.evidence(image, text, torch.ones(len(text)))[0]
        torch.testing.assert_close(evidence, scores, atol=2e-6, rtol=1e-5)


def test_words_above_one_keep_their_order(tmp_path: Path) -> None:
    peer = load_peer(saved(golden("san")[0], tmp_path / "san.pth"), "san")
    assert isinstance(peer, San)
    image, words = frames(1, SIZES["san"]), unit_rows(2, TEXT_WIDTH)
    with torch.no_grad():
        peer.mask_head.query[-1].bias.add_(0.5)
        peer.mask_head.pixel[-1].bias.add_(0.5)
        peer.word_logits.log_scale.fill_(0.5)  # every mask is of both words
    for text in (words, words.flip(0)):  # of words made alike the first would win
        with torch.no_grad():
            evidence = peer.evidence(image, text, torch.ones(2))
        above = (evidence > 1).all(1)
        assert int(above.sum()) > 50, "no pixel where clipping would make two words alike"
        found = run(peer, image, text)
        assert float(found.max()) == 1
        assert torch.equal(found.argmax(1), evidence.argmax(1))
        below = (evidence <= 1).all(1, keepdim=True).expand_as(found)
        assert torch.equal(found[below], evidence[below])


@pytest.mark.parametrize("size_hw", [(20, 20), (32, 32), (40, 28), (7, 3)])
def test_pooled_maximum_is_adaptive_pooling(size_hw: tuple[int, int]) -> None:
    x = torch.randn(2, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    assert torch.equal(pooled_maximum(x, size_hw), F.adaptive_max_pool2d(x, size_hw))


def test_merged_corner_is_both_convolutions() -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 5, 4, 6, generator=generator, dtype=torch.float64)
    up = torch.randn(5, 3, 2, 2, generator=generator, dtype=torch.float64)
    conv = torch.randn(7, 3, 3, 3, generator=generator, dtype=torch.float64)
    expected = F.conv2d(F.conv_transpose2d(x, up, stride=2), conv, padding=1)
    corners = F.conv2d(x, merged_corner(up, conv), padding=1)
    torch.testing.assert_close(F.pixel_shuffle(corners, 2)[:, :, 1:-1, 1:-1], expected)


# The contract


def test_permuting_words_permutes_scores(peer: Peer) -> None:
    image, text = frames(1, SIZES[name_of(peer)]), unit_rows(7, TEXT_WIDTH)
    order = torch.tensor([3, 0, 6, 1, 5, 2, 4])
    expected = run(peer, image, text)[:, order]
    assert float(expected.std()) > 1e-3
    torch.testing.assert_close(run(peer, image, text[order]), expected, atol=2e-6, rtol=1e-5)


def test_padding_slots_change_nothing_and_never_win(peer: Peer) -> None:
    image, text = frames(1, SIZES[name_of(peer)]), unit_rows(5, TEXT_WIDTH)
    padded = torch.cat([text, unit_rows(11, TEXT_WIDTH, seed=9) * 3])
    valid = torch.cat([torch.ones(5), torch.zeros(11)])
    scores = run(peer, image, padded, valid)
    torch.testing.assert_close(scores[:, :5], run(peer, image, text), atol=2e-6, rtol=1e-5)
    assert torch.equal(scores[:, 5:], torch.zeros_like(scores[:, 5:]))


def test_batch_of_two_equals_two_of_one(peer: Peer) -> None:
    image, text = frames(2, SIZES[name_of(peer)]), unit_rows(3, TEXT_WIDTH)
    both = run(peer, image, text)
    assert float((both[0] - both[1]).abs().max()) > 1e-4
    for row in range(2):
        alone = run(peer, image[row : row + 1], text)[0]
        torch.testing.assert_close(both[row], alone, atol=2e-6, rtol=1e-5)


def shallow(peer: Peer) -> Peer:
    """Return a copy with two CLIP blocks before CAT-Seg's last: its graph repeats the others."""
    peer = copy.deepcopy(peer)
    if isinstance(peer, CatSeg):
        peer.trunk.blocks, peer.taps = peer.trunk.blocks[-2:], (0, 1)
    return peer


def test_graph_of_every_target_computes_the_same(peer: Peer) -> None:
    import onnxruntime

    height, width = SIZES[name_of(peer)]
    frozen = freeze(shallow(peer), size_hw=(height, width))
    graph = image_graph(frozen, GraphSpec(height, width, TEXT_WIDTH))
    for target in ("cpu", "rtx", "trt"):
        check_ops(graph, target)  # type: ignore[arg-type]
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    for slots in (1, 5):
        image, text = frames(1, (height, width), seed=slots), unit_rows(slots, TEXT_WIDTH)
        feed = {"image": image.numpy(), "text": text.numpy(), "valid": np.ones(slots, np.float32)}
        expected = run(shallow(peer), image, text)
        torch.testing.assert_close(run(frozen, image, text), expected, atol=5e-6, rtol=1e-4)
        found = torch.from_numpy(session.run(["scores"], feed)[0])
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)
        assert torch.equal(found.argmax(1), expected.argmax(1))


def test_half_model_follows_the_float_model(peer: Peer) -> None:
    size_hw = SIZES[name_of(peer)]
    frozen = freeze(peer, size_hw=size_hw, precision="fp16")
    halves = [one for one in frozen.parameters() if one.dtype == torch.float16]
    assert len(halves) > 20
    image, text = frames(1, size_hw), unit_rows(5, TEXT_WIDTH)
    found = run(frozen, image, text)
    assert found.dtype == torch.float32
    assert (run(frozen.model, image, text).dtype == torch.float16) == peer.half_scores
    torch.testing.assert_close(found, run(peer, image, text), atol=2e-2, rtol=2e-2)


def test_words_beyond_the_padded_number_all_take_part(tmp_path: Path) -> None:
    peer = load_peer(saved(golden("catseg")[0], tmp_path / "c.pth"), "catseg")
    words, valid = unit_rows(300, 16), torch.ones(300)
    block = peer.layers[0].words  # type: ignore[union-attr]
    x = torch.randn(1, 300, 576, 16, generator=torch.Generator().manual_seed(2))
    grid = volume_grid((24, 24), x.device)
    with torch.no_grad():
        before = block(x, words, valid, grid)
        block.padding.add_(5.0)
        assert torch.equal(block(x, words, valid, grid), before)
        fewer = valid * (torch.arange(300) < 200)
        assert not torch.equal(block(x, words, fewer, grid)[:, :200], before[:, :200])


@pytest.mark.parametrize(
    ("name", "size_hw", "near"), [("san", (100, 160), "80x160"), ("catseg", (98, 128), "96x128")]
)
def test_size_that_does_not_fit(
    name: str, size_hw: tuple[int, int], near: str, tmp_path: Path
) -> None:
    peer = load_peer(saved(golden(name)[0], tmp_path / "p.pth"), name)
    with pytest.raises(BadInputError, match=f"the nearest is {near}"):
        freeze(peer, size_hw=size_hw)


# The files


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("form", ["bare", "safetensors", "half"])
def test_other_forms_of_the_same_file(name: str, form: str, tmp_path: Path) -> None:
    state, expected = golden(name)
    path = tmp_path / "weights.pth"
    if form == "safetensors":
        path = path.with_suffix(".safetensors")
        save_file({key: value.contiguous() for key, value in state.items()}, path)
    else:
        torch.save(state if form == "bare" else {k: v.half() for k, v in state.items()}, path)
    scores = run(load_peer(path, name), expected["image"], expected["text"])[0]
    torch.testing.assert_close(scores, bounded(expected["scores"]), atol=2e-6, rtol=1e-5)


def refused(path: Path, name: str, preset: str | None = None) -> str:
    with pytest.raises(BadInputError) as caught:
        load_peer(path, name, preset=preset)
    text = str(caught.value)
    assert str(path) in text and "\n" not in text
    return text


@pytest.mark.parametrize("name", NAMES)
def test_missing_surplus_and_odd_tensors_are_named(name: str, tmp_path: Path) -> None:
    state, _ = golden(name)
    gone = [key for key in state if key.endswith("ln_2.bias")][:5]
    for key in gone:
        del state[key]
    state["extra.weight"] = torch.zeros(2)
    odd = next(key for key in state if key.endswith("ln_1.bias"))
    state[odd] = torch.zeros(7)
    text = refused(saved(state, tmp_path / "a.pth"), name)
    assert f"5 missing: {', '.join(sorted(gone)[:3])} and 2 more" in text
    assert "1 surplus: 'extra.weight'" in text
    assert re.search(rf"1 of another shape: {re.escape(odd)} \[7\] instead of \[\d+\]", text)


@pytest.mark.parametrize("name", NAMES)
def test_tensors_that_decide_the_size_are_named(name: str, tmp_path: Path) -> None:
    for key in golden(name)[0]:
        if not key.endswith(("positional_embedding", "conv1.weight", "text_projection")):
            continue
        for value in (None, torch.zeros(()), torch.zeros(6, 12, 1, 1, 1)):
            state, _ = golden(name)
            state.pop(key) if value is None else state.update({key: value})
            assert key in refused(saved(state, tmp_path / "a.pth"), name)


def test_positions_that_form_no_square(tmp_path: Path) -> None:
    state, _ = golden("san")
    key = "side_adapter_network.vit_model.pos_embed"
    state[key] = torch.zeros(1, 8, 12)
    text = refused(saved(state, tmp_path / "a.pth"), "san")
    assert f"{key} is [1, 8, 12], whose positions form no square" in text


def test_checkpoint_of_the_other_model(tmp_path: Path) -> None:
    san = saved(golden("san")[0], tmp_path / "san.pth")
    assert "is of SAN, not of CAT-Seg; read it as 'san'" in refused(san, "catseg")
    cat_seg = saved(golden("catseg")[0], tmp_path / "catseg.pth")
    assert "is of CAT-Seg, not of SAN; read it as 'catseg'" in refused(cat_seg, "san")


def test_checkpoint_of_the_other_size(tmp_path: Path) -> None:
    path = saved(golden("san")[0], tmp_path / "small.pth")
    text = refused(path, "san", preset="san-l")
    assert "is of san (its CLIP is 24 wide with patches of 14), not of san-l" in text
    assert load_peer(path, "san", preset="san").config.preset == "san"


def test_no_file_and_no_checkpoint(tmp_path: Path) -> None:
    assert "does not exist" in refused(tmp_path / "none.pth", "san")
    (tmp_path / "words.pth").write_text("not a checkpoint")
    assert "not a readable file of tensors" in refused(tmp_path / "words.pth", "san")
    torch.save([1, 2], tmp_path / "list.pth")
    assert "it holds no table of tensors" in refused(tmp_path / "list.pth", "san")
    torch.save({"model": {"a": 1}}, tmp_path / "number.pth")
    assert "its entry 'a' is not a named tensor" in refused(tmp_path / "number.pth", "san")


@pytest.mark.parametrize("part", [0.1, 0.5, 0.99])
def test_truncated_file(part: float, tmp_path: Path) -> None:
    path = saved(golden("san")[0], tmp_path / "short.pth")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * part)])
    assert "not a readable file of tensors" in refused(path, "san")


class Planted:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("a checkpoint ran code",))


def test_file_with_python_objects_runs_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = saved({"a": Planted()}, tmp_path / "objects.pth")
    assert "not a readable file of tensors (UnpicklingError)" in refused(path, "san")
    assert "ran code" not in capsys.readouterr().out


def test_file_that_claims_more_than_it_holds(tmp_path: Path) -> None:
    state, _ = golden("san")
    state[MARKERS["san"]] = torch.zeros(1, 1, 1).expand(1, 1 << 20, 1 << 12)
    assert "its tensors claim" in refused(saved(state, tmp_path / "views.pth"), "san")


def test_compressed_file(tmp_path: Path) -> None:
    source, path = saved(golden("san")[0], tmp_path / "a.pth"), tmp_path / "packed.pth"
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    assert "its parts are compressed" in refused(path, "san")
