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
    """What the trunk says about pictures: cls [B, D] and patches [B, P, D], unit vectors."""

    cls: Tensor
    patches: Tensor


def look(model: Dedos, images: Tensor) -> Seen:
    """Return plain CLIP's view, without refinement, of uint8 BGR [B, H, W, 3]."""
    trunk = model.trunk
    x = trunk.embed(images)
    for block in trunk.blocks:
        x = block(x)
    unit = normalize(trunk.proj(trunk.ln_post(x)))
    return Seen(unit[:, 0], unit[:, 1:])


def read(model: Dedos, tokens: Tensor) -> Tensor:
    """Return unit text embeddings [N, D] of tokens int64 [N, L]."""
    return normalize(model.encode_text(tokens))


class PairLosses(nn.Module):
    """The losses and their two learned temperatures.

    patch_sharpness: inverse temperature that weighs the patches of a picture for the third loss.
    """

    def __init__(self, *, patch_sharpness: float = 10.0) -> None:
        super().__init__()
        self.caption_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.word_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.patch_sharpness = patch_sharpness

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
        """Return the InfoNCE loss of regions and base words [K, D] among all base words.

        cover: float32 [B, P, K]; a region is every word's part of a picture, and its embedding the
        mean of its patches [B, P, D], those it fills most counting most.
        """
        picture, word, region = region_embeddings(patches, cover)
        if not len(word):
            return patches.sum() * 0
        logits = _scale(self.word_scale) * region @ words.T
        # every word of the batch counts alike, however many pictures show it
        weight = 1 / torch.bincount(word, minlength=len(words)).clamp(min=1).to(logits.dtype)
        return F.cross_entropy(logits, word, weight)

    def places(self, patches: Tensor, words: Tensor, named: Tensor) -> Tensor:
        """Return the InfoNCE loss of caption words and the pictures [B] that may show them.

        words: [K, D]; named: bool [B, K]. A picture's answer to a word is the mean of its patches'
        similarity, patches that resemble it more counting more; among the pictures whose caption
        does not name the word, the one that does must answer most.
        """
        used = named.any(0).nonzero()[:, 0]
        alike = patches @ words[used].T  # [B, P, K]
        share = (self.patch_sharpness * alike).softmax(1)
        answer = _scale(self.word_scale) * (share * alike).sum(1)  # [B, K]
        mine = named[:, used]
        rivals = answer.masked_fill(mine, -1e4).logsumexp(0)
        loss = F.softplus(rivals - answer)
        return (loss * mine).sum(0).div(mine.sum(0)).mean()


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
