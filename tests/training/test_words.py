"""Distilling a sentence encoder: centring, learning, held meaning, files. The teacher is a fake."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dedos_deploy.errors import BadInputError
from dedos_deploy.model.text_tower import TextTower
from dedos_deploy.model.word_embeddings import clip_tokenizer
from dedos_deploy.presets import TextTowerConfig
from dedos_deploy.text.tokenizer import Tokenizer
from dedos_deploy.training.pretraining import sentence_encoder as encoders
from dedos_deploy.training.pretraining import text as words
from dedos_deploy.training.pretraining.scene_words import SYNONYMS, WordList, scene_words

_NAMES = ("car", "automobile", "road", "street", "tree", "bush", "red car", "dark tree")


def _fake_teacher(texts: Sequence[str]) -> Tensor:
    """Pairs of alike words: car/automobile, road/street, tree/bush, and a large common part."""
    kinds = {"car": 0, "automobile": 0, "road": 1, "street": 1, "tree": 2, "bush": 2}
    rows = torch.zeros(len(texts), 8)
    rows[:, 7] = 3.0
    for row, text in zip(rows, texts, strict=True):
        for nth, (word, kind) in enumerate(kinds.items()):
            if word in text.split():
                row[kind] += 1.0
                row[3 + nth % 2] += 0.3
    return F.normalize(rows, dim=-1)


@pytest.fixture(scope="module")
def tower() -> TextTower:
    torch.manual_seed(0)
    return TextTower(TextTowerConfig(8, 1, 2, context_length=16), 8, "gelu")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return clip_tokenizer(16)


def test_centring_takes_the_common_part_out() -> None:
    raw = _fake_teacher(_NAMES)
    targets = encoders.teacher_targets(_fake_teacher, _NAMES, phrases=("{}",))
    assert targets.norm(dim=1) == pytest.approx(torch.ones(len(_NAMES)))
    car, automobile, road = 0, 1, 2
    assert raw[car] @ raw[road] > 0.8
    assert targets[car] @ targets[road] < 0
    assert targets[car] @ targets[automobile] > 0.8


def test_several_phrases_are_averaged_for_the_first_words_only() -> None:
    one = encoders.teacher_targets(_fake_teacher, _NAMES, phrases=("{}",))
    two = encoders.teacher_targets(
        _fake_teacher, _NAMES, thorough=3, phrases=("{}", "the {} there")
    )
    assert torch.equal(one[3:], two[3:])
    assert two.norm(dim=1) == pytest.approx(torch.ones(len(_NAMES)))


def test_a_short_training_teaches_which_words_are_alike(
    tower: TextTower, tokenizer: Tokenizer
) -> None:
    listed = WordList(_NAMES, scene=6)
    targets = encoders.teacher_targets(_fake_teacher, _NAMES, phrases=("{}",))
    losses: list[float] = []
    settings = words.DistilSettings(steps=60, batch=24, learning_rate=5e-3)
    words.distil(tower, tokenizer, listed, targets, settings, report=lambda _, v: losses.append(v))
    assert losses[-1] < 0.3 * losses[0]
    said = words.embed(tower, tokenizer, _NAMES)
    assert float((said * targets).sum(-1).mean()) > 0.85
    assert said[0] @ said[1] > said[0] @ said[2] + 0.5


def test_cut_rows_give_what_the_whole_tower_gives(tower: TextTower, tokenizer: Tokenizer) -> None:
    tokens = torch.from_numpy(tokenizer.encode(["a car", "a photo of a red car"]))
    longest = int((tokens > 0).sum(1).max())
    assert longest < 16
    whole, cut = tower(tokens), tower(tokens[:, :longest])
    assert torch.allclose(whole, cut, atol=1e-6)


def test_targets_of_another_width_or_number_are_refused(
    tower: TextTower, tokenizer: Tokenizer
) -> None:
    listed = WordList(_NAMES, 2)
    settings = words.DistilSettings(steps=1)
    with pytest.raises(BadInputError, match="9 wide, the text tower says 8"):
        words.distil(tower, tokenizer, listed, torch.zeros(len(_NAMES), 9), settings)
    with pytest.raises(BadInputError, match="2 targets were given for 8 words"):
        words.distil(tower, tokenizer, listed, torch.zeros(2, 8), settings)


def test_a_preset_with_clip_weights_of_its_own_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="edge-b has CLIP weights of its own"):
        words.run_text(
            preset="edge-b", output=tmp_path / "t.safetensors", settings=words.DistilSettings()
        )


def test_weights_survive_the_file_and_other_shapes_are_refused(
    tower: TextTower, tmp_path: Path
) -> None:
    path = tmp_path / "new" / "tower.safetensors"
    words.write_text_tower(path, tower, teacher="a fake", score={"cosine": "0.9"})
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    other = TextTower(TextTowerConfig(8, 1, 2, context_length=16), 8, "gelu")
    words.load_text_tower(path, other)
    assert torch.equal(other.token_embedding.weight, tower.token_embedding.weight)
    larger = TextTower(TextTowerConfig(8, 2, 2, context_length=16), 8, "gelu")
    with pytest.raises(BadInputError, match="dedos-train text"):
        words.load_text_tower(path, larger)
    with pytest.raises(BadInputError, match="holds no text tower"):
        words.load_text_tower(tmp_path / "none.safetensors", other)


def test_the_synonym_score_of_a_perfect_and_of_a_blind_encoder() -> None:
    group = {word: k for k, names in enumerate(SYNONYMS) for word in names}
    perfect = encoders.score_synonyms(
        lambda names: torch.eye(len(SYNONYMS))[[group[n] for n in names]]
    )
    assert (perfect.found, perfect.within, perfect.between) == (1.0, 1.0, 0.0)
    blind = encoders.score_synonyms(lambda names: torch.ones(len(names), 1))
    assert blind.found < 0.1 and blind.between == 1.0


def test_scene_words_are_clean_and_hold_every_synonym() -> None:
    listed = scene_words()
    assert len(set(listed)) == len(listed)
    assert all(word == word.strip().lower() and word for word in listed)
    assert {word for names in SYNONYMS for word in names} <= set(listed)
