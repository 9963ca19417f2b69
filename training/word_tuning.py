"""Words that learn a camera: their embeddings by gradient through a frozen model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dedos_deploy.training.word_data import WordData
from dedos_deploy.training.word_heads import WordHead, thinned

_SMALL = 1e-6


@dataclass(frozen=True)
class TuneSettings:
    """How words are moved."""

    rounds: int = 2
    """Times that the queries of the decoder follow the words, and that held-out frames are asked."""
    steps: int = 15
    """Steps of Adam in a round, each on all frames."""
    rate: float = 0.01
    """Step of Adam, in a space where rows have length 1."""
    pull: float = 0.01
    """Weight of the squared way from the words' own rows, summed over the words."""
    keep: float = 3.0
    """Weight of the divergence from what the model said before, of every pixel but those that it got
    wrong: what no frame shows must not be given away to what some show, and mistakes need not stay."""
    spread: float = 3.0
    """Weight of coming nearer to a neighbour or negative than the word itself was, by more than `free`."""
    free: float = 0.2
    """Cosine by which a word may come nearer for nothing: with none, words hardly move, since every way
    leads nearer to some of fifty others."""


@dataclass(frozen=True, eq=False)
class Words:
    """The rows of a list: words that move, and those that stay."""

    rows: Tensor
    """float32 [K, D], unit rows: of the words and their synonyms, then of the neighbours."""
    slot_ids: tuple[int, ...]
    """Class id of each of the K."""
    moving: Tensor
    """bool [K]: which are tuned."""
    negatives: Tensor
    """float32 [M, D], unit rows of words that may compete and must not be come near to."""


@dataclass(frozen=True, eq=False)
class Seen:
    """One frame as the gradient sees it."""

    features: Any
    """Of `WordHead.features`."""
    labels: Tensor
    """int64 [h, w], class ids, or a higher number where unknown, as thin as `WordHead.shares`."""


def see(head: WordHead, data: WordData, counted: Callable[[Any, int], Any]) -> list[Seen]:
    """Return the cached features of every frame; counted: as `Progress.counted`."""
    found = []
    for frame in counted(data.frames, len(data.frames)):
        height, width = frame.image.shape[1] // 4, frame.image.shape[2] // 4
        small = cv2.resize(
            frame.labels.astype(np.uint16), (width, height), interpolation=cv2.INTER_NEAREST
        )
        labels = thinned(torch.from_numpy(small.astype(np.int64)))
        found.append(Seen(head.features(torch.from_numpy(frame.image)), labels))
    return found


def tuned_rounds(
    head: WordHead, frames: Sequence[Seen], words: Words, settings: TuneSettings
) -> Iterator[Tensor]:
    """Yield the rows, float32 [K, D], after every round of tuning on `frames`.

    The same frames and settings give the same rows: nothing is drawn.
    """
    way = torch.zeros_like(words.rows, requires_grad=True)
    optimizer = torch.optim.Adam([way], lr=settings.rate)
    objective = _Objective(torch.stack([frame.labels for frame in frames]), words, settings)
    for _ in range(settings.rounds):
        text = objective.moved(way).detach()
        parts = [head.settled(frame.features, text) for frame in frames]
        settled = tuple(torch.cat(part) for part in zip(*parts, strict=True))
        for _ in range(settings.steps):
            optimizer.zero_grad()
            text = objective.moved(way)
            loss: Tensor = objective(head.shares(settled, text), text, way)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        yield objective.moved(way).detach()


class _Objective:
    """What tuning makes small: labels missed, in pixels and in IoU, and what must stay as it was."""

    def __init__(self, labels: Tensor, words: Words, settings: TuneSettings) -> None:
        """labels: int64 [B, h, w]."""
        self._words, self._settings = words, settings
        count = 1 + max(words.slot_ids)
        self._slots = [
            [slot for slot, class_id in enumerate(words.slot_ids) if class_id == one]
            for one in range(count)
        ]
        self._known = labels < count
        self._labels = labels.masked_fill(~self._known, -100)
        one_hot = F.one_hot(labels.masked_fill(~self._known, 0), count)
        self._targets = (one_hot * self._known[..., None]).permute(0, 3, 1, 2).float()
        pixels = self._targets.sum((0, 2, 3))
        self._shown = pixels > 0
        # The square root: rare words count more, and are not all that counts.
        weights = (pixels.sum() / (pixels + 1)).sqrt()
        self._weights = weights * pixels.sum() / (weights * pixels).sum()
        others = torch.cat([words.rows[~words.moving], words.negatives])
        self._others, self._near = others, words.rows @ others.t()
        self._before: Tensor | None = None
        self._wrong = torch.zeros_like(self._known)

    def moved(self, way: Tensor) -> Tensor:
        """Return the rows, float32 [K, D], after a way from the words' own."""
        return F.normalize(self._words.rows + way * self._words.moving[:, None], dim=-1)

    def __call__(self, scores: Tensor, text: Tensor, way: Tensor) -> Tensor:
        """scores: [B, K, h, w]; text: float32 [K, D]; way: float32 [K, D]."""
        settings = self._settings
        if len(self._words.slot_ids) != len(self._slots):
            scores = torch.stack([scores[:, slots].amax(1) for slots in self._slots], 1)
        shares = (scores + _SMALL).log().log_softmax(1)
        if self._before is None:
            self._before = shares.detach()
            self._wrong = self._known & (self._before.argmax(1) != self._labels)
        missed = F.nll_loss(shares, self._labels, weight=self._weights, ignore_index=-100)
        stayed = F.kl_div(shares, self._before, log_target=True, reduction="none").sum(1)
        stayed = stayed.masked_fill(self._wrong, 0.0).mean()
        nearer = (text @ self._others.t() - self._near - settings.free).clamp(min=0)
        return (
            missed
            + self._overlap_missed(shares.exp())
            + settings.keep * stayed
            + settings.pull * way.square().sum()
            + settings.spread * (nearer * self._words.moving[:, None]).square().sum()
        )

    def _overlap_missed(self, shares: Tensor) -> Tensor:
        """Return 1 - the mean soft IoU of the words that labels show."""
        shares = shares * self._known[:, None]
        both = (shares * self._targets).sum((0, 2, 3))
        either = (shares + self._targets - shares * self._targets).sum((0, 2, 3))
        return 1 - (both / (either + 1))[self._shown].mean()
