"""The three contrastive losses of the nano CLIP."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dedos_deploy.model import Dedos
from dedos_deploy.model.blocks import normalize

_MAX_SCALE = 100.0  # as in CLIP: a larger one makes a batch's loss depend on one pair
_LEAST_COVER = 0.25  # of a patch; regions smaller than that have no patch to speak for them


@dataclass(frozen=True)
class Seen:
    """What the trunk says about pictures, as unit vectors."""

    cls: Tensor
    """[B, D]."""

    patches: Tensor
    """[B, P, D]."""


def look(model: Dedos, images: Tensor) -> Seen:
    """Return plain CLIP's view, without refinement, of uint8 BGR [B, H, W, 3]."""
    unit = normalize(model.trunk.embeddings(images))
    return Seen(unit[:, 0], unit[:, 1:])


def read(model: Dedos, tokens: Tensor) -> Tensor:
    """Return unit text embeddings [N, D] of tokens int64 [N, L].

    Columns that are padding in every row are left out, which changes nothing, since the tower is
    causal, and is most of the work for single words.
    """
    used = int(tokens.argmax(-1).max()) + 1
    return normalize(model.encode_text(tokens[:, :used]))


class PairLosses(nn.Module):
    """The losses and their two learned temperatures."""

    def __init__(self) -> None:
        super().__init__()
        self.caption_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.word_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def captions(self, cls: Tensor, text: Tensor, same: Tensor) -> Tensor:
        """Return the InfoNCE loss of pictures [B, D] and their captions [B, D], both ways.

        same: bool [B, B], pairs of equal captions, which are no negatives of each other.
        """
        logits = _scale(self.caption_scale) * cls @ text.T
        off = same & ~torch.eye(len(same), dtype=torch.bool, device=same.device)
        logits = logits.masked_fill(off, -1e4)
        target = torch.arange(len(logits), device=logits.device)
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2

    def regions(self, patches: Tensor, words: Tensor, cover: Tensor) -> Tensor:
        """Return the InfoNCE loss of regions and their words among the base words [K, D].

        cover: float32 [B, P, K]. A region is a word's part of a picture, its embedding the
        mean of its patches [B, P, D], those it fills most counting most; and, because DEDOS reads
        them one by one, every patch that a word fills by more than half is a region, too.
        """
        _, word, region = region_embeddings(patches, cover)
        filled, owner = cover.max(-1)
        pure = filled > 0.5
        scale = _scale(self.word_scale)
        return (
            _balanced(scale * region @ words.T, word)
            + _balanced(scale * patches[pure] @ words.T, owner[pure])
        ) / 2

    def places(self, patches: Tensor, words: Tensor, named: Tensor) -> Tensor:
        """Return the InfoNCE loss of caption words and where they may be, both ways.

        words: all words [K, D]; named: bool [B, K]. A picture's answer to a word is the mean of its
        patches [B, P, D], each as likely as it is that word among all words: what another word
        explains better counts little. The answer must resemble the word more than the answers of
        pictures whose captions do not name it, and resemble no other word as much.
        """
        used = named.any(0).nonzero()[:, 0]
        mine, scale = named[:, used], _scale(self.word_scale)
        alike = scale * patches @ words.T
        share = alike.log_softmax(-1)[..., used].softmax(1).detach()  # [B, P, K']
        answer = (share * alike[..., used]).sum(1)  # [B, K']
        rivals = answer.masked_fill(mine, -1e4).logsumexp(0)
        by_picture = (F.softplus(rivals - answer) * mine).sum(0).div(mine.sum(0)).mean()
        picture, word = mine.nonzero(as_tuple=True)
        spot = (share[picture, :, word][:, None] @ patches[picture])[:, 0]
        by_word = _balanced(scale * F.normalize(spot, dim=-1) @ words.T, used[word])
        return (by_picture + by_word) / 2


def _balanced(logits: Tensor, target: Tensor) -> Tensor:
    """Return cross-entropy where every class of the batch counts alike, 0 without items."""
    if not len(target):
        return logits.sum()
    weight = 1 / torch.bincount(target, minlength=logits.shape[1]).clamp(min=1).to(logits.dtype)
    return F.cross_entropy(logits, target, weight)


def region_embeddings(patches: Tensor, cover: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return picture [R], word [R] and unit embedding [R, D] of all regions of patches [B, P, D].

    cover: float32 [B, P, K], as `ClipBatch`. Patches count by the square of what a word covers of
    them: a patch on a border says less about either side.
    """
    weight = cover * cover
    picture, word = (cover.amax(1) > _LEAST_COVER).nonzero(as_tuple=True)
    region = weight[picture, :, word][:, None] @ patches[picture]
    return picture, word, F.normalize(region[:, 0], dim=-1)


def _scale(log_scale: Tensor) -> Tensor:
    return log_scale.exp().clamp(max=_MAX_SCALE)
