"""Pretraining of the nano CLIP: batches, losses against plain loops, exact resume, the report."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from dedos_deploy.errors import BadInputError
from dedos_deploy.model import build_model, load_checkpoint
from dedos_deploy.presets import ModelConfig
from dedos_deploy.training.pretraining.clip import ClipSettings, pretrain_clip
from dedos_deploy.training.pretraining.clip_batches import clip_batch, patch_cover
from dedos_deploy.training.pretraining.clip_losses import PairLosses, look, read, region_embeddings
from dedos_deploy.training.pretraining.clip_report import (
    ClipReport,
    read_regions,
    tokens_of,
    word_tokens,
)
from dedos_deploy.training.pretraining.clip_start import centre_text_tower
from dedos_deploy.training.pretraining.scenes import (
    BASE_WORDS,
    NOVEL_WORDS,
    WORDS,
    SceneSet,
    render_scenes,
)

_SIZE = (32, 32)
_QUICK = ClipSettings(steps=4, batch=4, warmup=2, half=False, save_minutes=1e-9)


@pytest.fixture(scope="module")
def scenes() -> SceneSet:
    return render_scenes(12, size_hw=_SIZE, seed=1)


@pytest.fixture(scope="module")
def held_out() -> SceneSet:
    return render_scenes(6, size_hw=_SIZE, seed=2)


def _value(loss: torch.Tensor) -> float:
    return float(loss.detach())


def _unit(*shape: int, seed: int = 0) -> torch.Tensor:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return values / values.norm(dim=-1, keepdim=True)


def test_a_batch_is_a_function_of_seed_and_step(scenes: SceneSet) -> None:
    first, again = (clip_batch(scenes, batch=5, patch=8, seed=3, step=7) for _ in range(2))
    other = clip_batch(scenes, batch=5, patch=8, seed=3, step=8)
    assert torch.equal(first.images, again.images) and first.captions == again.captions
    assert torch.equal(first.cover, again.cover) and torch.equal(first.named, again.named)
    assert not torch.equal(first.images, other.images)
    assert first.images.shape == (5, *_SIZE, 3) and first.images.dtype == torch.uint8


def test_novel_words_are_in_captions_and_nowhere_else(scenes: SceneSet) -> None:
    named = torch.zeros(len(WORDS), dtype=torch.bool)
    hidden = False
    for step in range(30):
        batch = clip_batch(scenes, batch=8, patch=8, seed=0, step=step)
        assert batch.cover.shape == (8, 16, len(BASE_WORDS))
        assert float(batch.cover.sum(-1).max()) <= 1 + 1e-6
        hidden |= bool((batch.cover.sum(-1) < 0.5).any())
        named |= batch.named.any(0)
        for text, row in zip(batch.captions, batch.named, strict=True):
            assert all(WORDS[k] in text for k in row.nonzero()[:, 0].tolist())
    assert hidden  # patches that show a novel word belong to no region
    assert named[len(BASE_WORDS) :].sum() >= 5


def test_patch_cover_counts_pixels() -> None:
    labels = np.random.default_rng(0).integers(0, len(WORDS), (24, 40)).astype(np.uint8)
    cover = patch_cover(labels, 8)
    for p in range(15):
        y, x = divmod(p, 5)
        block = labels[8 * y : 8 * y + 8, 8 * x : 8 * x + 8]
        expected = [(block == k).mean() for k in range(len(WORDS))]
        assert cover[p] == pytest.approx(expected)


def test_caption_loss_is_info_nce_both_ways_without_equal_captions() -> None:
    losses = PairLosses().double()
    cls, text = _unit(4, 6), _unit(4, 6, seed=1)
    same = torch.eye(4, dtype=torch.bool)
    same[0, 2] = same[2, 0] = True
    z = (cls @ text.T).numpy() / 0.07
    total = 0.0
    for logits in (z, z.T):
        for i in range(4):
            rivals = [j for j in range(4) if j == i or {i, j} != {0, 2}]
            total += np.log(np.exp(logits[i, rivals]).sum()) - logits[i, i]
    assert _value(losses.captions(cls, text, same)) == pytest.approx(total / 8, rel=1e-5)


def _cross_entropy(pairs: list[tuple[np.ndarray, int]]) -> float:
    """Mean over classes of the mean over a class's (logits, class) pairs."""
    by_class: dict[int, list[float]] = {}
    for z, k in pairs:
        by_class.setdefault(k, []).append(float(np.log(np.exp(z).sum()) - z[k]))
    return float(np.mean([np.mean(values) for values in by_class.values()]))


def test_region_loss_pools_patches_by_cover_and_weighs_words_alike() -> None:
    losses = PairLosses().double()
    patches, words = _unit(3, 5, 6), _unit(4, 6, seed=1)
    cover = torch.rand(3, 5, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    cover[:, :, 3] = 0
    cover[1, :, 0] = 0.2  # too little of every patch
    regions, single = [], []
    for b in range(3):
        for k in range(4):
            if float(cover[b, :, k].max()) > 0.25:
                region = sum(float(cover[b, p, k]) ** 2 * patches[b, p].numpy() for p in range(5))
                regions.append((words.numpy() @ (region / np.linalg.norm(region)) / 0.07, k))
        for p in range(5):
            if float(cover[b, p].max()) > 0.5:
                single.append(((words @ patches[b, p]).numpy() / 0.07, int(cover[b, p].argmax())))
    assert len(region_embeddings(patches, cover)[0]) == len(regions) == 8
    assert 0 < len(single) < 15
    expected = (_cross_entropy(regions) + _cross_entropy(single)) / 2
    assert _value(losses.regions(patches, words, cover)) == pytest.approx(expected, rel=1e-5)
    assert _value(losses.regions(patches, words, 0 * cover)) == 0


def test_place_loss_compares_best_patches_with_other_pictures_and_other_words() -> None:
    losses = PairLosses().double()
    patches, words = _unit(4, 5, 6), _unit(3, 6, seed=1)
    named = torch.tensor([[1, 0, 0], [0, 0, 1], [1, 0, 0], [0, 0, 0]], dtype=torch.bool)
    answer, spots = np.zeros((4, 3)), []
    for b in range(4):
        alike = (patches[b] @ words.T).numpy() / 0.07
        likely = np.exp(alike) / np.exp(alike).sum(1, keepdims=True)
        for k in range(3):
            share = likely[:, k] / likely[:, k].sum()
            answer[b, k] = float((share * alike[:, k]).sum())
            if named[b, k]:
                spot = share @ patches[b].numpy()
                spots.append((words.numpy() @ (spot / np.linalg.norm(spot)) / 0.07, k))
    terms = []
    for k in (0, 2):
        mine = [b for b in range(4) if named[b, k]]
        rivals = sum(np.exp(answer[b, k]) for b in range(4) if b not in mine)
        own = [np.exp(answer[b, k]) for b in mine]
        terms.append(np.mean([-np.log(a / (a + rivals)) for a in own]))
    expected = (np.mean(terms) + _cross_entropy(spots)) / 2
    assert _value(losses.places(patches, words, named)) == pytest.approx(expected, rel=1e-5)


def test_the_view_is_the_trunks_own_embedding(micro: ModelConfig, scenes: SceneSet) -> None:
    model = build_model(micro)
    images = torch.from_numpy(scenes.images[:2])
    seen = look(model, images)
    whole = torch.nn.functional.normalize(model.trunk.embeddings(images)[:, 0], dim=-1)
    assert torch.allclose(seen.cls, whole, atol=1e-6)
    last = model.trunk.plain_features(images, (micro.clip.layers - 1,))[0]
    patches = torch.nn.functional.normalize(model.trunk.proj(model.trunk.ln_post(last)), dim=-1)
    assert torch.allclose(seen.patches, patches, atol=1e-6)


def test_text_is_read_as_the_tower_reads_it_without_its_padding(micro: ModelConfig) -> None:
    model = build_model(micro)
    tokens = tokens_of(model, ["a car", "a street with a bus on the left", "grass"])
    expected = torch.nn.functional.normalize(model.encode_text(tokens), dim=-1)
    assert torch.allclose(read(model, tokens), expected, atol=1e-6)


def test_centred_words_differ_from_the_start(micro: ModelConfig) -> None:
    model = build_model(micro)
    words = word_tokens(model, WORDS)
    apart = ~torch.eye(len(WORDS), dtype=torch.bool)
    before = read(model, words)
    centre_text_tower(model, words)
    after = read(model, words)
    assert (before @ before.T)[apart].mean() > 0.7
    assert abs(float((after @ after.T)[apart].mean().detach())) < 0.1
    assert torch.allclose(model.encode_text(words).mean(0), torch.zeros(16), atol=1e-5)


def test_a_resumed_run_ends_as_an_uninterrupted_one(
    micro: ModelConfig, scenes: SceneSet, held_out: SceneSet, tmp_path: Path
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    report = pretrain_clip(micro, scenes, _QUICK, whole, held_out=held_out)

    def stop(step: int, _: dict[str, float]) -> None:
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain_clip(micro, scenes, _QUICK, parts, held_out=held_out, on_step=stop)
    seen: list[int] = []
    again = pretrain_clip(
        micro,
        scenes,
        _QUICK,
        parts,
        held_out=held_out,
        resume=True,
        on_step=lambda step, _: seen.append(step),
    )
    assert seen == [3, 4]
    first, second = (load_file(f / "checkpoint.safetensors") for f in (whole, parts))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert again.regions == report.regions and again.steps == 4
    assert json.loads((parts / "report.json").read_text())["chance"] == report.chance
    model, extra = load_checkpoint(whole / "checkpoint.safetensors")
    assert extra["words"] == list(WORDS)
    start = build_model(micro, seed=0).state_dict()
    moved = {n for n, v in model.state_dict().items() if not torch.equal(v, start[n])}
    assert moved and all(name.startswith(("trunk.", "text_tower.")) for name in moved)


def test_what_cannot_be_resumed_is_refused(
    micro: ModelConfig, scenes: SceneSet, held_out: SceneSet, tmp_path: Path
) -> None:
    with pytest.raises(BadInputError, match="nothing to resume"):
        pretrain_clip(micro, scenes, _QUICK, tmp_path, held_out=held_out, resume=True)
    one = replace(_QUICK, steps=1)
    pretrain_clip(micro, scenes, one, tmp_path, held_out=held_out)
    with pytest.raises(BadInputError, match="other settings or scenes"):
        pretrain_clip(micro, scenes, _QUICK, tmp_path, held_out=held_out, resume=True)
    (tmp_path / "state.safetensors").write_bytes(b"torn")
    with pytest.raises(BadInputError, match="is damaged"):
        pretrain_clip(micro, scenes, one, tmp_path, held_out=held_out, resume=True)
    with pytest.raises(BadInputError, match="batch must be at least 1"):
        replace(_QUICK, batch=0)
    with pytest.raises(BadInputError, match="minutes must be positive"):
        replace(_QUICK, minutes=0.0)


def test_the_clock_ends_a_run(
    micro: ModelConfig, scenes: SceneSet, held_out: SceneSet, tmp_path: Path
) -> None:
    timed = replace(_QUICK, steps=10_000, minutes=0.005)
    report = pretrain_clip(micro, scenes, timed, tmp_path, held_out=held_out)
    assert 1 <= report.steps < 1000


def test_a_short_run_reads_regions_far_better_than_chance(
    micro: ModelConfig, held_out: SceneSet, tmp_path: Path
) -> None:
    scenes = render_scenes(60, size_hw=_SIZE, seed=5)
    settings = ClipSettings(steps=60, batch=16, warmup=5, half=False)
    before = read_regions(build_model(micro), held_out)
    report = pretrain_clip(micro, scenes, settings, tmp_path, held_out=held_out)
    assert before.regions.base < 0.15
    assert report.regions.base > 4 * report.chance
    _check_sums(report)


def _check_sums(report: ClipReport) -> None:
    known = {word: value for word, value in report.per_class.items() if value is not None}
    assert set(report.per_class) == set(WORDS)
    assert all((report.counts[word] > 0) == (word in known) for word in WORDS)
    for words, mean in ((BASE_WORDS, report.regions.base), (NOVEL_WORDS, report.regions.novel)):
        values = [known[word] for word in words if word in known]
        assert np.mean(values) == pytest.approx(mean, abs=1e-3)
