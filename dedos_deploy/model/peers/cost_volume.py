"""CAT-Seg's aggregation of the cost volume, arranged so that nearly all of it is matrix products.

The volume has one cosine for each word and cell, lifted to a vector. Layers alternate between space
(shifted windows, each word alone) and words (linear attention, each cell alone); a decoder then
upsamples every word's map four times. What the published code computes per word although no word is
in it (guidance by the picture) is computed once here and added; transposed convolutions are merged
into the convolutions that follow them. Letters: B batch, K slots, N = 576 cells, C = 128 channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dedos_deploy.model.blocks import MASKED, Gelu, LayerNorm, linear_attend, softmax
from dedos_deploy.peer_configs import GRID

WINDOW = 12
HEADS = 4
POOL = 2
"""Cells along each side that are averaged before words see one another."""

SLOTS = 256
"""The class attention was trained on this many words, the missing ones a learned padding row."""

GROUP = 16
"""Channels that the decoder normalises together."""


class WindowBlock(nn.Module):
    """Attention inside windows and a feed-forward, on cells that are already in window order.

    q and k read the cell and the picture's guidance there: W [x; g] = W_x x + W_g g, where the second
    half is the same for every word.
    """

    apart: Tensor | None

    def __init__(self, width: int, guidance: int, apart: Tensor | None) -> None:
        super().__init__()
        self.norm_1 = LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.guide = nn.Linear(guidance, 2 * width, bias=False)
        self.out = nn.Linear(width, width)
        self.norm_2 = LayerNorm(width)
        self.fc = nn.Linear(width, 4 * width)
        self.act = Gelu()
        self.proj = nn.Linear(4 * width, width)
        self.register_buffer("apart", apart, persistent=False)

    def forward(self, x: Tensor, guidance: Tensor) -> Tensor:
        """x: [B, K, N, C]; guidance: [B, 1, N, G]; both in the order of windows."""
        batch, _, cells, width = x.shape
        # As a matrix: ONNX Runtime adds a bias inside the product for two axes only.
        rows = x.reshape(-1, width)
        qkv = self.qkv(self.norm_1(rows)).reshape(batch, -1, cells, 3 * width)
        q, k, v = qkv.chunk(3, dim=-1)
        guide_q, guide_k = self.guide(guidance).chunk(2, dim=-1)
        rows = rows + self.out(self._attend(q + guide_q, k + guide_k, v))
        rows = rows + self.proj(self.act(self.fc(self.norm_2(rows))))
        mixed: Tensor = rows.reshape(batch, -1, cells, width)
        return mixed

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """[B, K, N, C] each -> [B * K * N, C]."""
        cells, width = q.shape[2:]
        area = WINDOW * WINDOW
        shape = (-1, cells // area, area, HEADS, width // HEADS)
        q, k, v = (part.reshape(shape).transpose(2, 3) for part in (q, k, v))
        logits = (q * (width // HEADS) ** -0.5) @ k.transpose(-1, -2)
        if self.apart is not None:
            logits = logits + self.apart.to(logits.dtype)
        mixed = softmax(logits) @ v
        return mixed.transpose(2, 3).reshape(-1, width)


class WordBlock(nn.Module):
    """Words attend to one another at each pooled cell, by linear attention, then a feed-forward.

    Up to SLOTS words, the published layer is padded with copies of one learned row: one such row with
    their number as its weight is the same. Beyond, the published model drops all but the SLOTS words
    that correlate most with the picture; here all words stay.
    """

    pool: Tensor
    unpool: Tensor

    def __init__(self, width: int, guidance: int) -> None:
        super().__init__()
        self.norm_1 = LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.guide = nn.Linear(guidance, 2 * width, bias=False)
        self.norm_2 = LayerNorm(width)
        self.fc = nn.Linear(width, 4 * width)
        self.proj = nn.Linear(4 * width, width)
        self.padding = nn.Parameter(torch.zeros(1, 1, 1, width))
        self.padding_guidance = nn.Parameter(torch.zeros(1, guidance))
        pool, unpool = _pooling()
        self.register_buffer("pool", pool, persistent=False)
        self.register_buffer("unpool", unpool, persistent=False)

    def forward(self, x: Tensor, words: Tensor, valid: Tensor) -> Tensor:
        """x: [B, K, N, C], rows of cells; words: [K, G]; valid: float32 [K]."""
        pooled = (self.pool.to(x.dtype) @ x).transpose(1, 2)  # [B, N / 4, K, C]
        batch, cells, _, _ = pooled.shape
        padding = self.padding.to(x.dtype).expand(batch, cells, -1, -1)
        y = torch.cat([pooled, padding], dim=2)
        words = torch.cat([words, self.padding_guidance.to(words.dtype)])
        weight = torch.cat([valid, (SLOTS - valid.sum(0, keepdim=True)).clamp(min=0)])
        y = y + self._attend(self.norm_1(y), words, weight)
        y = y[:, :, :-1]
        y = y + self.proj(F.relu(self.fc(self.norm_2(y))))
        return x + self.unpool.to(x.dtype) @ y.transpose(1, 2)  # type: ignore[no-any-return]

    def _attend(self, y: Tensor, words: Tensor, weight: Tensor) -> Tensor:
        batch, cells, slots, width = y.shape
        q, k, v = self.qkv(y).chunk(3, dim=-1)
        guide_q, guide_k = self.guide(words).chunk(2, dim=-1)
        shape = (batch, cells, slots, HEADS, width // HEADS)
        q, k, v = (p.reshape(shape).transpose(2, 3) for p in (q + guide_q, k + guide_k, v))
        mixed = linear_attend(q, k, v, weight).to(y.dtype)
        return mixed.transpose(2, 3).reshape(batch, cells, slots, width)


class AggregationLayer(nn.Module):
    """Two window blocks, the second with windows moved by half of one, then a word block."""

    into: Tensor
    across: Tensor
    back: Tensor

    def __init__(self, width: int, guidance: int, text_guidance: int) -> None:
        super().__init__()
        straight, moved = window_order(0), window_order(WINDOW // 2)
        self.guidance_norm = LayerNorm(guidance)
        self.straight = WindowBlock(width, guidance, None)
        self.moved = WindowBlock(width, guidance, _apart(moved))
        self.words = WordBlock(width, text_guidance)
        self.register_buffer("into", straight, persistent=False)
        self.register_buffer("across", straight.argsort()[moved], persistent=False)
        self.register_buffer("back", moved.argsort(), persistent=False)

    def forward(self, x: Tensor, guidance: Tensor, words: Tensor, valid: Tensor) -> Tensor:
        """x: [B, K, N, C]; guidance: [B, N, G] of the picture; words: [K, G]; valid: [K]."""
        guidance = self.guidance_norm(guidance)[:, None].index_select(2, self.into)
        x = self.straight(x.index_select(2, self.into), guidance)
        guidance = guidance.index_select(2, self.across)
        x = self.moved(x.index_select(2, self.across), guidance)
        return self.words(x.index_select(2, self.back), words, valid)  # type: ignore[no-any-return]


class UpBlock(nn.Module):
    """Doubles the resolution: transposed convolution, guidance beside it, two 3x3 convolutions.

    Nothing stands between the transposed convolution (2x2, stride 2) and the first 3x3, so they are
    one map: each 2x2 square of fine cells around a corner of the coarse grid depends on the four
    coarse cells at that corner. `corner` computes it, at half of the products. Guidance and the
    transposed bias, which meets the zero border of the 3x3, hold for every word: `guide` and `border`.
    """

    border: Tensor

    def __init__(self, width: int, guidance: int, out: int, side: int) -> None:
        super().__init__()
        self.corner = nn.Conv2d(width, 4 * out, 2, padding=1, bias=False)
        self.guide = nn.Conv2d(guidance, out, 3, padding=1, bias=False)
        self.norm_1 = GroupNorm(out)
        self.conv = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.norm_2 = GroupNorm(out)
        self.register_buffer("border", torch.zeros(1, out, 2 * side, 2 * side))

    def forward(self, x: Tensor, guidance: Tensor) -> Tensor:
        """x: [B * K, C, h, w]; guidance: [B, G, 2h, 2w]; returns [B * K, C', 2h, 2w]."""
        fine = F.pixel_shuffle(self.corner(x), 2)[:, :, 1:-1, 1:-1]
        guide = self.guide(guidance) + self.border.to(guidance.dtype)
        batch, channels, height, width = guide.shape
        fine = fine.reshape(batch, -1, channels, height, width) + guide[:, None]
        y = F.relu(self.norm_1(fine.reshape(-1, channels, height, width)))
        return F.relu(self.norm_2(self.conv(y)))


class GroupNorm(nn.Module):
    """GroupNorm over GROUP channels each, as one LayerNormalization in float32."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        _, channels, height, width = x.shape
        rows = x.reshape(-1, channels // GROUP, GROUP * height * width).float()
        normed = F.layer_norm(rows, rows.shape[-1:]).reshape(-1, channels, height, width)
        scaled = normed * self.weight[:, None, None] + self.bias[:, None, None]
        return scaled.to(x.dtype)


def window_order(shift: int) -> Tensor:
    """Return, in the order of windows, the cells of the grid moved by `shift`, int64 [N]."""
    cells = torch.arange(GRID * GRID).reshape(GRID, GRID).roll((-shift, -shift), (0, 1))
    count = GRID // WINDOW
    return cells.reshape(count, WINDOW, count, WINDOW).transpose(1, 2).reshape(-1)


def _apart(order: Tensor) -> Tensor:
    """Return the bias [windows, 1, n, n] between cells that only the roll brought together.

    Published as -100, whose exponential is a denormal number: it changes nothing, and the products
    after the softmax take twenty times as long on a CPU. That of MASKED is zero.
    """
    far = GRID - WINDOW + WINDOW // 2

    def region(index: Tensor) -> Tensor:
        moved = (index - WINDOW // 2) % GRID
        return (moved >= GRID - WINDOW).long() + (moved >= far).long()

    regions = (region(order // GRID) * 3 + region(order % GRID)).reshape(-1, WINDOW * WINDOW)
    differs = regions[:, :, None] != regions[:, None, :]
    return differs[:, None].float() * MASKED


def _pooling() -> tuple[Tensor, Tensor]:
    """Return the average over POOL x POOL cells [N / 4, N] and its bilinear inverse [N, N / 4].

    As matrices: products of a few percent of the layer, and no change of layout around them.
    """
    small = GRID // POOL
    cells = torch.eye(GRID * GRID).reshape(-1, 1, GRID, GRID)
    pool = F.avg_pool2d(cells, POOL).reshape(GRID * GRID, -1).t()
    coarse = torch.eye(small * small).reshape(-1, 1, small, small)
    fine = F.interpolate(coarse, size=(GRID, GRID), mode="bilinear", align_corners=True)
    return pool.contiguous(), fine.reshape(small * small, -1).t().contiguous()
