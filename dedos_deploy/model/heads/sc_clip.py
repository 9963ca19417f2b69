"""SC-CLIP (Bai and others, 2024): CLIP calibrates itself, by what its own earlier blocks see.

Written from the mathematics. Where that leaves a choice: a patch is not its own neighbour, the mean
of the cosines is over one picture (or window), and an outlier among outliers stays as it is.

Note [Hard cuts]
A cosine at the cut, a density at the quantile: a small error flips them. Distances, densities and
cosines are float32 in every graph, from tokens in the precision of the trunk.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dedos_deploy.head_numbers import ScClipHead
from dedos_deploy.model.blocks import (
    MASKED,
    TransformerBlock,
    attend,
    map_from_tokens,
    normalize,
    softmax,
    tokens_from_map,
)
from dedos_deploy.model.heads.last_block import GridHw, keys_and_values

_SMALLEST = 1e-6
"""Least squared distance: patches may be equal, and densities are its reciprocals."""


class ScClip(nn.Module):
    """The head of SC-CLIP; see `last_block.Head`."""

    def __init__(self, numbers: ScClipHead) -> None:
        super().__init__()
        self.numbers = numbers

    def forward(self, tokens: list[Tensor], block: TransformerBlock, grid_hw: GridHw) -> Tensor:
        numbers = self.numbers
        patches = tokens[-1][:, 1:]
        odd = outliers(local_density(patches, numbers.neighbours), numbers.quantile)
        similar = cosines(repaired(tokens[numbers.similar - 1][:, 1:], odd, grid_hw))
        patches = affinity(similar, numbers.cut).to(patches.dtype) @ repaired(patches, odd, grid_hw)
        first, last = numbers.summed
        whole = torch.stack(tokens[first - 1 : last]).sum(0)
        weights = softmax(sharpened(similar, numbers.sharpness)).to(patches.dtype)
        calibrated = _twice(block, patches, whole[:, 1:], weights)
        classes = numbers.cls_weight * (tokens[-1][:, :1] + whole[:, :1])
        spread = affinity(cosines(tokens[numbers.shallow - 1][:, 1:]), numbers.cut)
        # Both runs are spread by the same matrix, so their sum is, and once.
        return spread.to(patches.dtype) @ (calibrated + classes)


def _twice(block: TransformerBlock, first: Tensor, second: Tensor, weights: Tensor) -> Tensor:
    """Return the sum of W_o ½(softmax(k kᵀ / √d) + weights) v for two sets of patches [B, N, C].

    weights: [B, N, N]. The two go through the block as one batch.
    """
    keys, values = keys_and_values(block, torch.cat([first, second]))
    spread = (weights @ values.reshape(2, *first.shape)).reshape(values.shape)
    out = block.out((attend(keys, keys, values, block.heads) + spread) / 2)
    return out[: len(first)] + out[len(first) :]  # type: ignore[no-any-return]


def local_density(patches: Tensor, neighbours: int) -> Tensor:
    """Return o float32 [B, N] of patches [B, N, C], large for a patch far from where others lie.

    o_i = r_i · mean of 1 / r_j over the `neighbours` nearest patches j, where r is the squared
    distance to the farthest of a patch's own nearest ones. Equally near patches count all.
    """
    distances = squared_distances(patches.float())
    # The nearest of all is the patch itself.
    radius = distances.topk(neighbours + 1, largest=False).values[..., -1:]
    near = (distances <= radius).float()
    inverse = 1 / radius
    others = near @ inverse - inverse
    return (radius * others / (near.sum(-1, keepdim=True) - 1)).squeeze(-1)


def squared_distances(x: Tensor) -> Tensor:
    """Return [B, N, N] for float32 [B, N, C], at least _SMALLEST."""
    # Distances do not know of the mean, but the difference of large squares loses digits.
    x = x - x.mean(1, keepdim=True)
    squares = (x * x).sum(-1, keepdim=True)
    products = x @ x.transpose(1, 2)
    return (squares + squares.transpose(1, 2) - 2 * products).clamp(min=_SMALLEST)


def outliers(density: Tensor, quantile: float) -> Tensor:
    """Return bool [B, N, 1]: the density [B, N] is above its quantile, interpolated linearly."""
    count = density.shape[1]
    place = round(quantile * (count - 1), 6)
    below = min(math.floor(place), count - 2)
    top = density.topk(count - below).values
    low, high = top[:, -1:], top[:, -2:-1]
    return (density > low + (place - below) * (high - low))[..., None]


def repaired(patches: Tensor, odd: Tensor, grid_hw: GridHw) -> Tensor:
    """Return patches [B, N, C] with each odd one as the mean of its sound neighbours, of up to 8."""
    sound = 1 - odd.float()
    sums, counts = (
        tokens_from_map(F.avg_pool2d(map_from_tokens(part, grid_hw), 3, stride=1, padding=1))
        for part in (torch.where(odd, 0.0, patches.float()), sound)
    )
    # A pool holds 9 cells, so a single sound one counts 1/9.
    means = sums / counts.clamp(min=1 / 16)
    return torch.where(odd & (counts > 1 / 16), means.to(patches.dtype), patches)


def cosines(patches: Tensor) -> Tensor:
    """Return S float32 [B, N, N] of patches [B, N, C]."""
    rows = normalize(patches)
    return rows @ rows.transpose(1, 2)


def affinity(similar: Tensor, cut: float) -> Tensor:
    """Return A(S) float32 [B, N, N]: cosines of at least `cut`, the others 0, rows of sum 1."""
    kept = torch.where(similar >= cut, similar, 0.0)
    return kept / kept.sum(-1, keepdim=True)


def sharpened(similar: Tensor, sharpness: float) -> Tensor:
    """Return logits float32 [B, N, N]: sharpness · (S - mean S), MASKED where that is negative."""
    above = sharpness * (similar - similar.mean((1, 2), keepdim=True))
    return torch.where(above < 0, MASKED, above)
