"""CAT-Seg's blocks over a cost volume, arranged so that nearly all of them are matrix products.

The volume has one vector for each word and cell. A layer alternates between space (attention in
windows, each word alone) and words (linear attention, each cell alone). What the published code
computes per word although no word is in it (guidance by the picture) is computed once here and added.
Letters: B batch, K slots, N cells, P those of whole windows, C channels, G channels of the guidance.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from dedos_deploy.model.blocks import MASKED, Gelu, LayerNorm, linear_attend, softmax
from dedos_deploy.presets import VOLUME_HEADS as HEADS

WINDOW = 12
"""Cells along each side of a window at most."""

POOL = 2
"""Cells along each side that are averaged before words see one another."""


@dataclass(frozen=True)
class Windows:
    """One cut of a grid into windows of `area` cells."""

    order: Tensor
    """int64 [P]: which of the cells that there were stands at each place, window after window."""
    apart: Tensor | None
    """float32 bias [windows, 1, area, area] between cells of a window that are no neighbours; None
    where all are."""
    area: int


@dataclass(frozen=True)
class VolumeGrid:
    """How blocks walk over a grid of cells; see `volume_grid`."""

    straight: Windows
    """Of the cells row by row."""
    moved: Windows
    """Windows moved by half of one, of the cells in the order of `straight`."""
    back: Tensor
    """int64 [N]: where each cell stands in `moved`."""
    pool: Tensor
    """float32 [n, N], the average over POOL x POOL cells."""
    unpool: Tensor
    """float32 [N, n], its bilinear inverse. As matrices: products of a few percent of a layer, and no
    change of layout around them."""


class WindowBlock(nn.Module):
    """Attention inside windows and a feed-forward, on cells that are already in window order.

    q and k read the cell and the picture's guidance there: W [x; g] = W_x x + W_g g, where the second
    half is the same for every word.
    """

    def __init__(self, width: int, guidance: int) -> None:
        super().__init__()
        self.norm_1 = LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.guide = nn.Linear(guidance, 2 * width, bias=False)
        self.out = nn.Linear(width, width)
        self.norm_2 = LayerNorm(width)
        self.fc = nn.Linear(width, 4 * width)
        self.act = Gelu()
        self.proj = nn.Linear(4 * width, width)

    def forward(self, x: Tensor, guidance: Tensor, windows: Windows) -> Tensor:
        """x: [B, K, P, C]; guidance: [B, 1, P, G]; both in the order of `windows`."""
        batch, _, cells, width = x.shape
        # As a matrix: ONNX Runtime adds a bias inside the product for two axes only.
        rows = x.reshape(-1, width)
        qkv = self.qkv(self.norm_1(rows)).reshape(batch, -1, cells, 3 * width)
        q, k, v = qkv.chunk(3, dim=-1)
        guide_q, guide_k = self.guide(guidance).chunk(2, dim=-1)
        rows = rows + self.out(_attend_in(windows, q + guide_q, k + guide_k, v))
        rows = rows + self.proj(self.act(self.fc(self.norm_2(rows))))
        mixed: Tensor = rows.reshape(batch, -1, cells, width)
        return mixed


def _attend_in(windows: Windows, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """[B, K, P, C] each -> [B * K * P, C]."""
    cells, width = q.shape[2:]
    shape = (-1, cells // windows.area, windows.area, HEADS, width // HEADS)
    q, k, v = (part.reshape(shape).transpose(2, 3) for part in (q, k, v))
    logits = (q * (width // HEADS) ** -0.5) @ k.transpose(-1, -2)
    if windows.apart is not None:
        logits = logits + windows.apart.to(logits.dtype)
    mixed = softmax(logits) @ v
    return mixed.transpose(2, 3).reshape(-1, width)


class WordBlock(nn.Module):
    """Words attend to one another at each pooled cell, by linear attention, then a feed-forward."""

    def __init__(self, width: int, guidance: int) -> None:
        super().__init__()
        self.norm_1 = LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.guide = nn.Linear(guidance, 2 * width, bias=False)
        self.norm_2 = LayerNorm(width)
        self.fc = nn.Linear(width, 4 * width)
        self.proj = nn.Linear(4 * width, width)

    def forward(self, x: Tensor, words: Tensor, valid: Tensor, grid: VolumeGrid) -> Tensor:
        """x: [B, K, N, C], row by row; words: [K, G]; valid: float32 [K]."""
        y = (grid.pool.to(x.dtype) @ x).transpose(1, 2)  # [B, n, K, C]
        y = self.mixed(y, words, valid)
        y = y + self.proj(F.relu(self.fc(self.norm_2(y))))
        return x + grid.unpool.to(x.dtype) @ y.transpose(1, 2)  # type: ignore[no-any-return]

    def mixed(self, y: Tensor, words: Tensor, weight: Tensor) -> Tensor:
        """Return y [B, n, K, C] with what each word takes of the others, by their weight [K]."""
        batch, cells, slots, width = y.shape
        q, k, v = self.qkv(self.norm_1(y)).chunk(3, dim=-1)
        guide_q, guide_k = self.guide(words).chunk(2, dim=-1)
        shape = (batch, cells, slots, HEADS, width // HEADS)
        q, k, v = (p.reshape(shape).transpose(2, 3) for p in (q + guide_q, k + guide_k, v))
        taken = linear_attend(q, k, v, weight).to(y.dtype)
        return y + taken.transpose(2, 3).reshape(batch, cells, slots, width)


class AggregationLayer(nn.Module):
    """Two window blocks, the second with windows moved by half of one, then a word block."""

    def __init__(self, width: int, guidance: int, words: WordBlock) -> None:
        super().__init__()
        self.guidance_norm = LayerNorm(guidance)
        self.straight = WindowBlock(width, guidance)
        self.moved = WindowBlock(width, guidance)
        self.words = words

    def forward(
        self, x: Tensor, guidance: Tensor, words: Tensor, valid: Tensor, grid: VolumeGrid
    ) -> Tensor:
        """x: [B, K, N, C]; guidance: [B, N, G] of the picture; words: [K, G]; valid: [K]."""
        guidance = self.guidance_norm(guidance)[:, None].index_select(2, grid.straight.order)
        x = self.straight(x.index_select(2, grid.straight.order), guidance, grid.straight)
        guidance = guidance.index_select(2, grid.moved.order)
        x = self.moved(x.index_select(2, grid.moved.order), guidance, grid.moved)
        return self.words(x.index_select(2, grid.back), words, valid, grid)  # type: ignore[no-any-return]


Array = NDArray[np.float32]
Index = NDArray[np.int64]


def volume_grid(size_hw: tuple[int, int], device: torch.device) -> VolumeGrid:
    """Return how blocks walk over a grid of h x w cells.

    Each side is cut into as few equal windows of at most WINDOW cells as cover it. Where they stand
    over, the places beyond the grid repeat a cell, and no cell of the grid sees them. A side of one
    window is not moved.
    """
    grid = _grid(size_hw)
    return VolumeGrid(
        _windows(grid.straight, grid.area, device),
        _windows(grid.moved, grid.area, device),
        *(torch.tensor(one, device=device) for one in (grid.back, grid.pool, grid.unpool)),
    )


def _windows(cut: _WindowArrays, area: int, device: torch.device) -> Windows:
    apart = None if cut.apart is None else torch.tensor(cut.apart, device=device)
    return Windows(torch.tensor(cut.order, device=device), apart, area)


class _WindowArrays(NamedTuple):
    """What `Windows` has."""

    order: Index
    apart: Array | None


class _GridArrays(NamedTuple):
    """What `VolumeGrid` has, as arrays, which no graph traces: the same constants in every one."""

    straight: _WindowArrays
    moved: _WindowArrays
    area: int
    back: Index
    pool: Array
    unpool: Array


@lru_cache(maxsize=8)
def _grid(size_hw: tuple[int, int]) -> _GridArrays:
    height, width = size_hw
    (rows, window_h), (columns, window_w) = _cut(height), _cut(width)
    counts, window_hw, cells = (rows, columns), (window_h, window_w), height * width
    straight, apart = _in_windows(size_hw, counts, window_hw, moved=False)
    moved, moved_apart = _in_windows(size_hw, counts, window_hw, moved=True)
    return _GridArrays(
        _WindowArrays(np.maximum(straight, 0), apart),
        _WindowArrays(_places(straight, cells)[np.maximum(moved, 0)], moved_apart),
        window_h * window_w,
        _places(moved, cells),
        np.kron(_averages(height), _averages(width)),
        np.kron(_interpolation(height), _interpolation(width)),
    )


def _cut(side: int) -> tuple[int, int]:
    """Return how many windows cover a side, and the cells of each.

    >>> _cut(24), _cut(23), _cut(20), _cut(9)
    ((2, 12), (2, 12), (2, 10), (1, 9))
    """
    count = -(-side // WINDOW)
    return count, -(-side // count)


def _in_windows(
    size_hw: tuple[int, int], counts: tuple[int, int], window_hw: tuple[int, int], *, moved: bool
) -> tuple[Index, Array | None]:
    """Return the cell at each place, -1 beyond the grid, and the bias between strangers.

    Published as -100, whose exponential is a denormal number: it changes nothing, and the products
    after the softmax take twenty times as long on a CPU. That of MASKED is zero.
    """
    axes = [_axis(*one, moved) for one in zip(size_hw, counts, window_hw, strict=True)]
    (row, round_h), (column, round_w) = axes
    inside = (row[:, None] >= 0) & (column[None] >= 0)
    cell = np.where(inside, row[:, None] * size_hw[1] + column[None], -1)
    # Only the roll brought the two ends of a side together, and nothing stands beyond the grid.
    kind = np.where(inside, 2 * round_h[:, None] + round_w[None], 4)

    def cut(plane: Index) -> Index:
        (rows, columns), (high, wide) = counts, window_hw
        whole = plane.reshape(rows, high, columns, wide).transpose(0, 2, 1, 3)
        return np.ascontiguousarray(whole).reshape(rows * columns, high * wide)

    kinds = cut(kind)
    differs = kinds[:, :, None] != kinds[:, None, :]
    apart = differs[:, None].astype(np.float32) * np.float32(MASKED) if differs.any() else None
    return cut(cell).reshape(-1), apart


def _axis(side: int, count: int, window: int, moved: bool) -> tuple[Index, Index]:
    """Return the cells of a side in the order of windows, -1 beyond it, and which went round."""
    shift = window // 2 if moved and count > 1 else 0
    cells = (np.arange(count * window) + shift) % (count * window)
    return np.where(cells < side, cells, -1), (cells < shift).astype(np.int64)


def _places(order: Index, count: int) -> Index:
    """Return where each of `count` cells stands in `order`."""
    places = np.empty(count, np.int64)
    places[order[order >= 0]] = np.flatnonzero(order >= 0)
    return places


def _averages(side: int) -> Array:
    """Return the means of POOL neighbours, of what there is at the end, [n, side]."""
    groups = np.arange(side) // POOL
    member = groups[None] == np.arange(groups[-1] + 1)[:, None]
    means: Array = (member / member.sum(1, keepdims=True)).astype(np.float32)
    return means


def _interpolation(side: int) -> Array:
    """Return the linear interpolation of n means to a side, first on first and last on last."""
    small = -(-side // POOL)
    place = np.arange(side) * ((small - 1) / max(side - 1, 1))
    distance = np.abs(place[:, None] - np.arange(small)[None])
    shares: Array = np.clip(1 - distance, 0, None).astype(np.float32)
    return shares
