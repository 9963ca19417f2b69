"""Gives a small CLIP text tower the meaning of words, from a real sentence encoder.

A nano CLIP never sees enough captions to learn that an automobile is a car. A sentence encoder
knows, so the tower is trained to repeat its embeddings: of single words, of the class names of
segmentation sets, and of two-word combinations, under the prompt templates used at run time.
The encoder's embeddings all share a large common part ("this is a short text about a thing"),
which makes cosines between different things high; subtracting the mean over many words and
normalising again spreads them (car against road 0.67 -> 0.43, car against automobile 0.94 -> 0.89).
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from dedos_deploy.errors import BadInputError, listed
from dedos_deploy.files import write_atomically
from dedos_deploy.model.text_tower import TextTower
from dedos_deploy.model.word_embeddings import clip_tokenizer
from dedos_deploy.presets import get_preset
from dedos_deploy.text.templates import TEMPLATES
from dedos_deploy.text.tokenizer import Tokenizer
from dedos_deploy.training.pretraining.scene_words import MODIFIERS, scene_words
from dedos_deploy.training.pretraining.sentence_encoder import (
    Encode,
    find_encoder,
    fit_width,
    score_synonyms,
    sentence_encoder,
    whole_words,
)

_LOG = logging.getLogger(__name__)

PHRASES = ("a photo of a {}", "a {}", "the {}, an object you can see")
"""What the teacher is asked; tried against each other on synonyms, the mean is best."""

PROMPTS = ("{}", *TEMPLATES["single"], *TEMPLATES["single"], *TEMPLATES["vild14"])
"""What the student reads; the default template twice as often as each other one."""


@dataclass(frozen=True)
class DistilSettings:
    """How the text tower learns.

    steps, batch: optimiser steps and words in each; learning_rate: its peak, after a warm-up of
    5 %, then a cosine to 0; scene_share: share of a batch drawn from the scene words;
    relations: weight of the match between the batch's two cosine matrices.
    """

    steps: int = 1500
    batch: int = 384
    learning_rate: float = 2e-3
    scene_share: float = 0.3
    relations: float = 4.0
    seed: int = 0


@dataclass(frozen=True)
class WordList:
    """Words to learn from. scene: how many of the first ones name things cameras see."""

    words: tuple[str, ...]
    scene: int


def word_list(
    common: Sequence[str], *, extra: Sequence[str] = (), pairs: int = 5000, seed: int = 0
) -> WordList:
    """Return scene words, two-word combinations of them, and `common` words of all kinds.

    extra: further names, put with the scene words; pairs: number of combinations.
    """
    scene = tuple(dict.fromkeys([*scene_words(), *extra]))
    rng = random.Random(seed)
    combined = []
    for _ in range(pairs):
        first = rng.choice(MODIFIERS) if rng.random() < 0.5 else rng.choice(scene)
        combined.append(f"{first} {rng.choice(scene)}")
    words = dict.fromkeys([*scene, *combined, *common])
    return WordList(tuple(words), len(scene))


def teacher_targets(
    encode: Encode, words: Sequence[str], *, thorough: int = 0, phrases: Sequence[str] = PHRASES
) -> Tensor:
    """Return what the student should say for each word: unit rows, float32 [N, D].

    Every phrase's embeddings are centred on their mean over all words. thorough: so many of the
    first words are asked under every phrase, the others under the first only.
    """
    first = encode([phrases[0].format(word) for word in words])
    centred = F.normalize(first - first.mean(0), dim=-1)
    if not thorough:
        return centred
    # every phrase needs a mean over common words too, not over scene words alone
    sample = list(words[thorough :: max(1, (len(words) - thorough) // 1500)])[:1500]
    total = centred[:thorough].clone()
    for phrase in phrases[1:]:
        rows = encode([phrase.format(word) for word in [*words[:thorough], *sample]])
        middle = rows[thorough:].mean(0) if sample else rows.mean(0)
        total += F.normalize(rows[:thorough] - middle, dim=-1)
    return torch.cat([F.normalize(total, dim=-1), centred[thorough:]])


def distil(
    tower: TextTower,
    tokenizer: Tokenizer,
    words: WordList,
    targets: Tensor,
    settings: DistilSettings,
    *,
    report: Callable[[int, float], None] | None = None,
) -> None:
    """Train `tower` in place until its unit embeddings of `words` are the rows of `targets`.

    report: called with step and loss every 50 steps.

    Raises BadInputError when the targets do not fit the words or the tower.
    """
    _check(tower, words, targets)
    _start_from_targets(tower, tokenizer, words.words, targets)
    bank = _PromptBank(tokenizer, words.words)
    draw = torch.Generator().manual_seed(settings.seed)
    optimizer = torch.optim.AdamW(tower.parameters(), lr=settings.learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _warm_cosine(settings.steps))
    tower.train()
    for step in range(settings.steps):
        chosen = _draw_words(words, settings, draw)
        said = F.normalize(tower_forward(tower, bank.tokens(chosen, draw)), dim=-1)
        loss = _loss(said, targets[chosen], settings.relations)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(tower.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if report is not None and (step % 50 == 0 or step == settings.steps - 1):
            report(step, float(loss.detach()))
    tower.eval()


def _check(tower: TextTower, words: WordList, targets: Tensor) -> None:
    if targets.shape[0] != len(words.words):
        raise BadInputError(f"{targets.shape[0]} targets were given for {len(words.words)} words")
    if targets.shape[1] != tower.projection.out_features:
        raise BadInputError(
            f"the targets are {targets.shape[1]} wide, the text tower says "
            f"{tower.projection.out_features}; use a preset of that text width"
        )


def _start_from_targets(
    tower: TextTower, tokenizer: Tokenizer, words: Sequence[str], targets: Tensor
) -> None:
    """Put the main axes of the targets into the projection and the token embeddings.

    A word that is one token starts with its own embedding, others with the mean of the words
    they are part of: several times fewer steps than from random numbers.
    """
    width = tower.projection.in_features
    axes = torch.linalg.svd(targets[:4000], full_matrices=False).Vh[:width]
    if axes.shape[0] < width:
        return
    table = tower.token_embedding.weight
    with torch.no_grad():
        tower.projection.weight.copy_(axes.T)
        coordinates = targets @ axes.T * (0.3 / targets.std() / width**0.5)
        total, seen = torch.zeros_like(table), torch.zeros(len(table), 1)
        for word, row in zip(words, coordinates, strict=True):
            tokens = tokenizer.encode([word], truncate=True)[0]
            inner = torch.from_numpy(tokens[(tokens > 0) & (tokens < tokenizer.start_id)])
            weight = 1.0 / max(1, len(inner)) ** 2
            total.index_add_(0, inner, (weight * row).expand(len(inner), -1))
            seen.index_add_(0, inner, torch.full((len(inner), 1), weight))
        table.add_(total / seen.clamp_min(1e-6))


class _PromptBank:
    """Tokens of prompts, put together from the tokens of their parts."""

    def __init__(self, tokenizer: Tokenizer, words: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._words = words

    def tokens(self, chosen: Tensor, draw: torch.Generator) -> Tensor:
        """Return int64 [N, L] for the chosen words under random prompts, cut to the longest."""
        which = torch.randint(len(PROMPTS), (len(chosen),), generator=draw).tolist()
        texts = [
            PROMPTS[k].format(self._words[index])
            for k, index in zip(which, chosen.tolist(), strict=True)
        ]
        rows = torch.from_numpy(self._tokenizer.encode(texts, truncate=True))
        return rows[:, : int((rows > 0).sum(1).max())]


def tower_forward(tower: TextTower, tokens: Tensor) -> Tensor:
    """Return `tower`'s embeddings [N, D] of rows cut short after their longest text.

    The tower is causal, so what stands behind the end token changes nothing and need not be run.
    """
    length = tokens.shape[1]
    x = tower.token_embedding(tokens) + tower.position[:length]
    for block in tower.blocks:
        x = block(x, tower.causal[:length, :length])
    end = tokens.argmax(-1)
    pooled = tower.ln_final(x)[torch.arange(len(tokens)), end]
    result: Tensor = tower.projection(pooled)
    return result


def _draw_words(words: WordList, settings: DistilSettings, draw: torch.Generator) -> Tensor:
    count = round(settings.batch * settings.scene_share) if words.scene else 0
    scene = torch.randint(max(words.scene, 1), (count,), generator=draw)
    rest = torch.randint(len(words.words), (settings.batch - count,), generator=draw)
    return torch.cat([scene, rest])


def _loss(said: Tensor, wanted: Tensor, relations: float) -> Tensor:
    alone = 1 - (said * wanted).sum(-1).mean()
    together = F.mse_loss(said @ said.T, wanted @ wanted.T)
    return alone + relations * together


def _warm_cosine(steps: int) -> Callable[[int], float]:
    warm = max(1, steps // 20)

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / warm
        return 0.5 + 0.5 * math.cos(math.pi * (step - warm) / max(1, steps - warm))

    return factor


@torch.inference_mode()
def embed(
    tower: TextTower, tokenizer: Tokenizer, words: Sequence[str], *, template: str = "single"
) -> Tensor:
    """Return the unit embeddings [N, D] of words, averaged over a template set."""
    total = torch.zeros(len(words), tower.projection.out_features)
    for prompt in TEMPLATES[template]:
        for start in range(0, len(words), 512):
            texts = [prompt.format(word) for word in words[start : start + 512]]
            rows = torch.from_numpy(tokenizer.encode(texts))
            rows = rows[:, : int((rows > 0).sum(1).max())]
            total[start : start + 512] += F.normalize(tower_forward(tower, rows), dim=-1)
    return F.normalize(total, dim=-1)


def write_text_tower(path: Path, tower: TextTower, *, teacher: str, score: dict[str, str]) -> None:
    """Write the tower's weights as safetensors, with the teacher's name and `score` as metadata."""
    from safetensors.torch import save

    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, save(tower.state_dict(), {"teacher": teacher, **score}))


def text_tower_credit(path: Path) -> str:
    """Return the line that credits the teacher of a text tower file.

    Raises BadInputError when it is no such file.
    """
    from dedos_deploy.model.tensor_files import read_metadata

    metadata = read_metadata(path, partial(_no_tower, path))
    return f"Text teacher: {listed([metadata.get('teacher', 'unknown')])}"


def load_text_tower(path: Path, tower: TextTower) -> None:
    """Read weights written by `write_text_tower` into `tower`.

    Raises BadInputError when the file does not hold a text tower of that shape.
    """
    from dedos_deploy.model.tensor_files import load_strictly, read_tensors

    refusal = partial(_no_tower, path)
    _, tensors = read_tensors(path, refusal)
    load_strictly(tower, tensors, refusal)


def _no_tower(path: Path, reason: str) -> BadInputError:
    return BadInputError(
        f"{path} holds no text tower of this preset ({reason}); make one with: dedos-train text"
    )


def run_text(
    *,
    preset: str,
    output: Path,
    settings: DistilSettings,
    encoder: Path | None = None,
    extra_words: Sequence[str] = (),
) -> dict[str, float]:
    """Distil a sentence encoder into a preset's text tower, write it, return its scores.

    encoder: as `find_encoder` takes it. The scores: cosine to the teacher on trained scene words
    and on unseen word pairs, and `SynonymScore` of student and teacher.

    Raises BadInputError for a preset with CLIP weights of its own or an encoder that cannot be
    read, MissingExtraError without the extra `words`.
    """
    config = get_preset(preset)
    if config.clip_tune != "all":
        raise BadInputError(
            f"preset {preset} has CLIP weights of its own, text tower included; only presets whose "
            "CLIP starts from nothing, such as nano, are distilled"
        )
    clip = config.clip
    torch.manual_seed(settings.seed)
    tower = TextTower(clip.text, clip.text_width, clip.activation)
    tokenizer = clip_tokenizer(clip.text.context_length)
    source = find_encoder(encoder)
    encode, common = sentence_encoder(source), whole_words(source)
    words = word_list(common, extra=extra_words, seed=settings.seed)
    unseen = word_list(common, seed=settings.seed + 1, pairs=400).words[words.scene :][:300]
    unseen = tuple(word for word in unseen if word not in set(words.words))
    everything = [*words.words, *unseen]
    targets = fit_width(teacher_targets(encode, everything, thorough=words.scene), clip.text_width)
    known, held_out = targets[: len(words.words)], targets[len(words.words) :]
    distil(tower, tokenizer, words, known, settings, report=_log_step)
    scores = _scores(tower, tokenizer, words, known, (unseen, held_out))
    written = {key: f"{value:.4f}" for key, value in scores.items()}
    write_text_tower(output, tower, teacher=source.credit, score=written)
    return scores


def _scores(
    tower: TextTower,
    tokenizer: Tokenizer,
    words: WordList,
    known: Tensor,
    held_out: tuple[Sequence[str], Tensor],
) -> dict[str, float]:
    index = {word: row for row, word in enumerate(words.words)}
    student = score_synonyms(lambda names: embed(tower, tokenizer, names))
    teacher = score_synonyms(lambda names: known[[index[name] for name in names]])
    scene = embed(tower, tokenizer, words.words[: words.scene])
    pairs = embed(tower, tokenizer, held_out[0])
    return {
        "cosine_scene_words": float((scene * known[: words.scene]).sum(-1).mean()),
        "cosine_unseen_pairs": float((pairs * held_out[1]).sum(-1).mean()),
        "student_found": student.found,
        "student_within": student.within,
        "student_between": student.between,
        "teacher_found": teacher.found,
        "teacher_within": teacher.within,
        "teacher_between": teacher.between,
    }


def _log_step(step: int, loss: float) -> None:
    _LOG.info("text tower: step %d, loss %.4f", step, loss)
