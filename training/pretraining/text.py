"""Gives a small CLIP text tower the meaning of words, from a real sentence encoder.

A nano CLIP never sees enough captions to learn that an automobile is a car. A sentence encoder
knows, so the tower is trained to repeat its embeddings: of single words, of the class names of
segmentation sets, and of two-word combinations, under the prompt templates used at run time.
The encoder's embeddings all share a large common part ("this is a short text about a thing"),
which makes cosines between different things high; subtracting the mean over many words and
normalising again spreads them (car against road 0.67 -> 0.43, car against automobile 0.94 -> 0.89).
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
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
from dedos_deploy.training.muon import MuonAdamW
from dedos_deploy.training.pretraining.loop import (
    LoopReport,
    LoopSettings,
    PretrainingLoop,
    Rate,
    StateFile,
)
from dedos_deploy.training.pretraining.scene_words import WordList, word_list
from dedos_deploy.training.pretraining.sentence_encoder import (
    find_encoder,
    fit_width,
    score_synonyms,
    sentence_encoder,
    teacher_targets,
    whole_words,
)

_LOG = logging.getLogger(__name__)

PROMPTS = ("{}", *TEMPLATES["single"], *TEMPLATES["single"], *TEMPLATES["vild14"])
"""What the student reads; the default template twice as often as each other one."""


@dataclass(frozen=True)
class DistilSettings:
    """How the text tower learns.

    Raises BadInputError for minutes that are none.
    """

    steps: int = 1500
    """Optimizer steps; fewer when `minutes` are over before."""

    batch: int = 384
    """Words in a step."""

    learning_rate: float = 2e-3
    """Peak learning rate, after a warm-up of 5 %, then a cosine to 0."""

    scene_share: float = 0.3
    """Share of a batch drawn from the scene words."""

    relations: float = 4.0
    """Weight of the match between the batch's two cosine matrices."""

    seed: int = 0
    minutes: float | None = None
    """Wall clock of the training; None: by steps alone."""

    def __post_init__(self) -> None:
        if self.minutes is not None and not self.minutes > 0:
            raise BadInputError(f"minutes must be positive or none, not {self.minutes}")


def distil(
    tower: TextTower,
    tokenizer: Tokenizer,
    words: WordList,
    targets: Tensor,
    settings: DistilSettings,
    *,
    report: Callable[[int, float], None] | None = None,
    state: StateFile | None = None,
    resume: bool = False,
) -> None:
    """Train `tower` in place until its unit embeddings of `words` are the rows of `targets`.

    report: called with step and loss every 50 steps; state: where the run is kept, from which
    `resume` goes on.

    Raises BadInputError when the targets do not fit the words or the tower, or there is nothing to
    resume; KeyboardInterrupt after Ctrl-C or SIGTERM, with the state saved; DivergedError when the
    loss is no finite number.
    """
    _check(tower, words, targets)
    loop = PretrainingLoop(tower, _optimizer(tower, settings), _length(settings), state)
    if resume:
        loop.resume()
    else:
        _start_from_targets(tower, tokenizer, words.words, targets)
    draws = islice(_draws(words, settings), loop.step, None)

    def loss_of(_step: int) -> tuple[Tensor, dict[str, float]]:
        chosen, prompts = next(draws)
        tokens = _prompt_tokens(tokenizer, words.words, chosen, prompts)
        said = F.normalize(tower(tokens), dim=-1)
        return _loss(said, targets[chosen], settings.relations), {}

    def observe(step: LoopReport) -> None:
        if report is not None and (step.step % 50 == 1 or step.progress >= 1.0):
            report(step.step - 1, step.loss)

    tower.train()
    loop.run(loss_of, observe)
    tower.eval()


def _optimizer(tower: TextTower, settings: DistilSettings) -> MuonAdamW:
    group = {"params": tower.parameters(), "peak_lr": settings.learning_rate, "weight_decay": 0.0}
    return MuonAdamW([group], fused=False)


def _length(settings: DistilSettings) -> LoopSettings:
    return LoopSettings(
        "the text tower",
        settings.steps,
        settings.minutes,
        rate=_warm_cosine(settings.steps),
        advice="lower --lr",
        seed=settings.seed,
    )


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


def _prompt_tokens(
    tokenizer: Tokenizer, words: Sequence[str], chosen: Tensor, prompts: Tensor
) -> Tensor:
    """Return int64 [N, L] for the chosen words under their prompts, cut to the longest."""
    texts = [
        PROMPTS[prompt].format(words[index])
        for prompt, index in zip(prompts.tolist(), chosen.tolist(), strict=True)
    ]
    rows = torch.from_numpy(tokenizer.encode(texts, truncate=True))
    return rows[:, : int((rows > 0).sum(1).max())]


def _draws(words: WordList, settings: DistilSettings) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the words and prompts of every step, int64 [batch] each, without end."""
    draw = torch.Generator().manual_seed(settings.seed)
    count = round(settings.batch * settings.scene_share) if words.scene else 0
    while True:
        scene = torch.randint(max(words.scene, 1), (count,), generator=draw)
        rest = torch.randint(len(words.words), (settings.batch - count,), generator=draw)
        prompts = torch.randint(len(PROMPTS), (settings.batch,), generator=draw)
        yield torch.cat([scene, rest]), prompts


def _loss(said: Tensor, wanted: Tensor, relations: float) -> Tensor:
    alone = 1 - (said * wanted).sum(-1).mean()
    together = F.mse_loss(said @ said.T, wanted @ wanted.T)
    return alone + relations * together


def _warm_cosine(steps: int) -> Rate:
    """Return a ramp over a twentieth of the steps, then a cosine to 0, ahead with the clock."""
    warm = max(1, steps // 20)

    def factor(step: int, progress: float) -> float:
        if step < warm:
            return (step + 1) / warm
        reached = progress * steps if progress > step / steps else step
        return 0.5 + 0.5 * math.cos(math.pi * (reached - warm) / max(1, steps - warm))

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
            total[start : start + 512] += F.normalize(tower(rows), dim=-1)
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
    resume: bool = False,
) -> dict[str, float]:
    """Distil a sentence encoder into a preset's text tower, write it, return its scores.

    encoder: as `find_encoder` takes it; resume: go on with what an interrupted run left beside
    `output`, in a file that ends in .state.safetensors. The scores: cosine to the teacher on trained scene words
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
    state = StateFile(
        output.with_suffix(".state.safetensors"),
        _recipe(settings, preset, source.credit, everything),
        data="words",
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    distil(tower, tokenizer, words, known, settings, report=_log_step, state=state, resume=resume)
    scores = _scores(tower, tokenizer, words, known, (unseen, held_out))
    written = {key: f"{value:.4f}" for key, value in scores.items()}
    write_text_tower(output, tower, teacher=source.credit, score=written)
    state.path.unlink()
    return scores


def _recipe(settings: DistilSettings, preset: str, credit: str, words: Sequence[str]) -> str:
    """Return what parts of a run have in common; more time may be given to the last."""
    values = {k: v for k, v in asdict(settings).items() if k != "minutes"}
    return json.dumps([values, preset, credit, _digest(words)])


def _digest(words: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(words).encode()).hexdigest()


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
