"""What tuning words needs of a model: all of its graph that the words have no part in, made once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from dedos_deploy.model import Dedos
from dedos_deploy.model.dedos import ImageFeatures
from dedos_deploy.model.heads import STUFF_WORDS, DenseClip
from dedos_deploy.model.text_aggregation import scores_from_logits
from dedos_deploy.model.word_embeddings import WordEmbeddings, WordModel

EVERY = 2
"""Gradients look at every second row and column of the score map."""


class WordHead(Protocol):
    """A frozen model from its cached features on.

    `scores` is the deployed graph. `settled` runs it with a list of words and keeps what changes little
    while these move a little, and `shares` goes on from there, cheaply and with a gradient.
    """

    def features(self, image: Tensor) -> Any:
        """Return what words have no part in, of one picture uint8 [1, H, W, 3] BGR."""
        ...

    def scores(self, features: Any, text: Tensor) -> Tensor:
        """Return float32 [1, K, H / 4, W / 4] for text float32 [K, D]."""
        ...

    def settled(self, features: Any, text: Tensor) -> tuple[Tensor, ...]:
        """Return tensors [1, ...] of one picture, which `torch.cat` joins to those of several."""
        ...

    def shares(self, settled: tuple[Tensor, ...], text: Tensor) -> Tensor:
        """Return scores [B, K, h, w] at every EVERY-th place of the score map."""
        ...


def thinned(values: Tensor) -> Tensor:
    """Return every EVERY-th row and column of maps [..., H, W], from the middle of the first ones."""
    return values[..., EVERY // 2 :: EVERY, EVERY // 2 :: EVERY]


class DedosHead:
    """From the cost aggregation on. While words move, the queries of the decoder and their masks stay
    those of the list they began the round with; the text aggregation gives the gradient."""

    def __init__(self, model: Dedos) -> None:
        self._model = model

    @torch.no_grad()
    def features(self, image: Tensor) -> ImageFeatures:
        return self._model.image_features(image)

    @torch.no_grad()
    def scores(self, features: ImageFeatures, text: Tensor) -> Tensor:
        return self._model.scores_of(features, text, torch.ones(len(text))).float()

    @torch.no_grad()
    def settled(self, features: ImageFeatures, text: Tensor) -> tuple[Tensor, ...]:
        objects, masks = self._model.objects_of(features, text, torch.ones(len(text)))
        return objects, thinned(masks)

    def shares(self, settled: tuple[Tensor, ...], text: Tensor) -> Tensor:
        objects, masks = settled
        valid = torch.ones(len(text))
        return scores_from_logits(self._model.text_aggregation(objects, text, valid), masks, valid)


@dataclass(frozen=True, eq=False)
class _Patches:
    """Of one picture."""

    embeddings: Tensor
    """[n, N, D] of n windows."""
    size_hw: tuple[int, int]
    """Of the picture."""


class DenseHead:
    """From the patch embeddings on, which is exact: nothing but cosines and a softmax is left."""

    def __init__(self, model: DenseClip) -> None:
        self._model = model
        self._size_hw = (0, 0)

    @torch.no_grad()
    def features(self, image: Tensor) -> _Patches:
        embeddings = self._model.image_features(image)
        return _Patches(embeddings, (image.shape[1], image.shape[2]))

    @torch.no_grad()
    def scores(self, features: _Patches, text: Tensor) -> Tensor:
        valid = torch.ones(len(text))
        return self._model.scores_of(features.embeddings, text, valid, features.size_hw)

    def settled(self, features: _Patches, text: Tensor) -> tuple[Tensor, ...]:
        self._size_hw = features.size_hw
        return (features.embeddings[None],)

    def shares(self, settled: tuple[Tensor, ...], text: Tensor) -> Tensor:
        valid = torch.ones(len(text))
        pictures = [
            self._model.scores_of(patches, text, valid, self._size_hw) for patches in settled[0]
        ]
        return thinned(torch.cat(pictures))


def word_head(model: WordModel, template: str) -> WordHead:
    """Return the head of a model, which is frozen; template: of the null rows of a dense CLIP."""
    model.eval().requires_grad_(False)
    if isinstance(model, Dedos):
        return DedosHead(model)
    nulls = WordEmbeddings(model, STUFF_WORDS, template=template, tuned=False)
    model.word_logits.set_nulls(nulls(range(len(STUFF_WORDS))))
    return DenseHead(model)
