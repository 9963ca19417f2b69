"""SAN (Xu et al., CVPR 2023) in the graph contract: a side adapter tells a frozen CLIP where to look.

A small ViT on the full picture proposes masks and, for each of them, an attention bias; copies of
CLIP's CLS token run through CLIP's last blocks under that bias and become the masks' embeddings.
Written from the paper and from the published tensors; `benchmarks/peers.py` compares it with the
authors' own module.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from dedos_deploy.model.blocks import (
    MASKED,
    Gelu,
    LayerNorm,
    Mlp,
    TransformerBlock,
    attend,
    map_from_tokens,
    normalize,
    resize_map,
    tokens_from_map,
)
from dedos_deploy.model.clip_trunk import ClipTrunk, PatchEmbedding, PositionEmbedding
from dedos_deploy.model.peers.pictures import resized
from dedos_deploy.model.text_tower import TextTower
from dedos_deploy.peer_configs import SIDE_HEADS, SIDE_PATCH, SanConfig
from dedos_deploy.spec import SCORE_STRIDE

FUSIONS = 4
"""CLIP's tokens are added before the side adapter's first block and after its first three."""

_TIMM_EPS = 1e-6


class Fusion(nn.Module):
    """CLIP's tokens, projected and resized, added to those of the side adapter."""

    def __init__(self, clip_width: int, width: int) -> None:
        super().__init__()
        self.norm = LayerNorm(clip_width, eps=_TIMM_EPS)
        self.proj = nn.Linear(clip_width, width)

    def forward(
        self, pixels: Tensor, tap: Tensor, tap_hw: tuple[int, int], grid_hw: tuple[int, int]
    ) -> Tensor:
        projected = map_from_tokens(self.proj(self.norm(tap)), tap_hw)
        return pixels + tokens_from_map(resize_map(projected, grid_hw))


class SideAdapter(nn.Module):
    """The ViT beside CLIP: picture and CLIP's tokens in, queries and pixels out."""

    def __init__(self, config: SanConfig) -> None:
        super().__init__()
        width = config.side_width
        self.queries = config.queries
        self.patch_embedding: nn.Module = PatchEmbedding(
            replace(config.clip, patch=SIDE_PATCH, width=width, heads=1)
        )
        self.patch_bias = nn.Parameter(torch.zeros(width))
        self.query = nn.Parameter(torch.randn(1, config.queries, width) * 0.02)
        positions = PositionEmbedding(config.side_grid, width)
        # What CLIP has for its CLS token, the side adapter has for its queries.
        positions.cls = nn.Parameter(torch.randn(config.queries, width) * 0.02)
        self.position: nn.Module = positions
        self.fusions = nn.ModuleList(Fusion(config.clip.width, width) for _ in range(FUSIONS))
        self.blocks = nn.ModuleList(_timm_block(width) for _ in range(config.side_layers))

    def forward(
        self, image: Tensor, taps: list[Tensor], tap_hw: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Return queries [B, Q, c] and pixels [B, N, c] for uint8 [B, H, W, 3].

        taps: CLIP's patch tokens before its first block and after three later ones.
        """
        grid_hw = (image.shape[1] // SIDE_PATCH, image.shape[2] // SIDE_PATCH)
        pixels = self.patch_embedding(image)
        pixels = pixels + self.patch_bias.to(pixels.dtype)
        query = self.query.to(pixels.dtype).expand(image.shape[0], -1, -1)
        position = self.position(grid_hw).to(pixels.dtype)
        x = torch.cat([query, pixels], dim=1) + position
        x = self._fused(0, x, taps, tap_hw, grid_hw)
        for index, block in enumerate(self.blocks, start=1):
            x = self._fused(index, block(x), taps, tap_hw, grid_hw)
            if index < len(self.blocks):
                x = x + position
        return x[:, : self.queries], x[:, self.queries :]

    def _fused(
        self,
        index: int,
        x: Tensor,
        taps: list[Tensor],
        tap_hw: tuple[int, int],
        grid_hw: tuple[int, int],
    ) -> Tensor:
        if index >= FUSIONS:
            return x
        pixels = self.fusions[index](x[:, self.queries :], taps[index], tap_hw, grid_hw)
        return torch.cat([x[:, : self.queries], pixels], dim=1)


def _timm_block(width: int) -> TransformerBlock:
    block = TransformerBlock(width, SIDE_HEADS, "gelu")
    block.ln_1.eps = block.ln_2.eps = _TIMM_EPS
    block.act = Gelu()
    return block


class MaskHead(nn.Module):
    """Queries and pixels -> mask logits and one attention bias per CLIP head.

    The published head gives every pixel one vector per CLIP head, W_h p + b_h, and multiplies it by
    the query. (W_h p + b_h) q = p (W_hᵀ q) + b_h q is the same number from vectors of a twelfth of
    the size; its learned scale and offset are folded into W and b by the reader.
    """

    def __init__(self, config: SanConfig) -> None:
        super().__init__()
        inner, width, embed = config.head_width, config.side_width, config.embed_width
        self.heads = config.clip.heads
        self.query = Mlp(width, inner, inner, embed)
        self.pixel = Mlp(width, inner, inner, embed)
        self.bias_pixel = nn.Sequential(Mlp(width, inner, inner), nn.ReLU())
        self.bias_query = nn.Linear(embed, self.heads * inner, bias=False)
        self.bias_offset = nn.Linear(embed, self.heads)

    def forward(self, query: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return mask logits [B, Q, N] and the attention bias [B, heads * Q, N]."""
        embedded = self.query(query)
        masks = embedded @ self.pixel(pixels).transpose(1, 2)
        batch, count, _ = embedded.shape
        keys = self.bias_query(embedded).reshape(batch, count, self.heads, -1).transpose(1, 2)
        keys = keys.reshape(batch, self.heads * count, -1)
        offset = self.bias_offset(embedded).transpose(1, 2).reshape(batch, -1, 1)
        return masks, keys @ self.bias_pixel(pixels).transpose(1, 2) + offset


class MaskLogits(nn.Module):
    """Unit mask embeddings [B, Q, D] and text [K, D] -> logits float32 [B, Q, K + 1].

    The last is of one learned background; padding gets MASKED.
    """

    def __init__(self, text_width: int) -> None:
        super().__init__()
        self.background = nn.Parameter(torch.randn(1, text_width) * text_width**-0.5)
        self.log_scale = nn.Parameter(torch.tensor(100.0).log())

    def forward(self, embedding: Tensor, text: Tensor, valid: Tensor) -> Tensor:
        rows = torch.cat([text.float(), normalize(self.background)])
        used = torch.cat([valid, valid.new_ones(1)])
        cosine = embedding @ rows.t()
        return cosine * self.log_scale.float().exp() + (1 - used) * MASKED


class San(nn.Module):
    """SAN in the graph contract (`dedos_deploy.spec`).

    A word's evidence is the sum over masks of its part in each, which is its softmax over the valid
    words and one learned background. Where the largest is above 1, all words of the pixel are divided
    by it: clipping would make words alike whose order is known.
    """

    apart: Tensor

    half_scores = True
    """Frozen in fp16, the scores are computed in float16."""

    def __init__(self, config: SanConfig) -> None:
        super().__init__()
        self.config = config
        clip = config.clip
        self.trunk = ClipTrunk(clip, ())
        self.text_tower = TextTower(clip.text, clip.text_width, clip.activation)
        self.side = SideAdapter(config)
        self.mask_head = MaskHead(config)
        self.word_logits = MaskLogits(clip.text_width)
        own = (1 - torch.eye(config.queries, config.queries + 1)) * MASKED
        self.register_buffer("apart", own, persistent=False)

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Return text embeddings [N, D], not normalised, of BPE tokens int64 [N, L]."""
        return self.text_tower(tokens)  # type: ignore[no-any-return]

    def forward(self, image: Tensor, text: Tensor, valid: Tensor) -> Tensor:
        evidence = self.evidence(image, text, valid)
        largest = evidence.amax(1, keepdim=True)
        return evidence / largest.clamp(min=1.0)

    def evidence(self, image: Tensor, text: Tensor, valid: Tensor) -> Tensor:
        """Return the sums over masks, at least 0 and 0 for padding, [B, K, H // 4, W // 4]."""
        batch, height, width, _ = image.shape
        clip_hw = self.config.seen_hw((height, width))
        tap_hw = (clip_hw[0] // self.config.clip.patch, clip_hw[1] // self.config.clip.patch)
        grid_hw = (height // SIDE_PATCH, width // SIDE_PATCH)
        tokens, taps = self._early(resized(image, clip_hw))
        query, pixels = self.side(image, taps, tap_hw)
        mask_logits, bias = self.mask_head(query, pixels)
        pooled = pooled_maximum(bias.reshape(batch, -1, *grid_hw), tap_hw)
        pooled = pooled.reshape(batch, self.config.clip.heads, self.config.queries, -1)
        recognised = self._recognised(tokens, pooled)
        logits: Tensor = self.word_logits(recognised, text, valid)
        classes = logits.softmax(-1)[..., :-1] * valid  # The background has no score.
        score_hw = (height // SCORE_STRIDE, width // SCORE_STRIDE)
        masks = resize_map(mask_logits.reshape(batch, -1, *grid_hw), score_hw)
        shares = masks.float().sigmoid().to(masks.dtype).flatten(2)
        mixed = classes.transpose(1, 2).to(masks.dtype) @ shares
        return mixed.reshape(batch, -1, *score_hw)

    def _early(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return CLIP's tokens [B, 1 + N, C] after block `split`, and what the side adapter reads."""
        split = self.config.split
        wanted = [index * split // (FUSIONS - 1) for index in range(FUSIONS)]
        x = self.trunk.embed(image)
        states = [x]
        for block in self.trunk.blocks[:split]:
            states.append(block(states[-1]))
        return states[-1], [states[index][:, 1:] for index in wanted]

    def _recognised(self, tokens: Tensor, bias: Tensor) -> Tensor:
        """Return unit mask embeddings [B, Q, D] in float32.

        Q copies of the CLS token see themselves and, under `bias` [B, heads, Q, N], the patches;
        nobody sees them. The published bias between those apart is -100: exp(-100) is a denormal
        number, which changes nothing and makes products on a CPU twenty times slower.
        """
        queries = self.config.queries
        full = self._full_bias(bias.float())
        x = torch.cat([tokens[:, :1].expand(-1, queries, -1), tokens], dim=1)
        *blocks, last = self.trunk.blocks[self.config.split :]
        for block in blocks:
            x = block(x, full)
        assert isinstance(last, TransformerBlock)
        x = _first_tokens(last, x, full, queries)
        return normalize(self.trunk.proj(self.trunk.ln_post(x)))

    def _full_bias(self, bias: Tensor) -> Tensor:
        batch, heads, queries, patches = bias.shape
        copies = torch.cat([self.apart.expand(batch, heads, -1, -1), bias], dim=-1)
        hidden = bias.new_full((1 + patches, queries), MASKED)
        seen = bias.new_zeros((1 + patches, 1 + patches))
        plain = torch.cat([hidden, seen], dim=-1).expand(batch, heads, -1, -1)
        return torch.cat([copies, plain], dim=2)


def _first_tokens(block: TransformerBlock, x: Tensor, bias: Tensor, count: int) -> Tensor:
    """Return what `block` returns for the first `count` tokens, which is all that is read of it."""
    q, k, v = block.qkv(block.ln_1(x)).chunk(3, dim=-1)
    mixed = attend(q[:, :count], k, v, block.heads, bias[:, :, :count])
    first = x[:, :count] + block.out(mixed)
    return first + block.proj(block.act(block.fc(block.ln_2(first))))  # type: ignore[no-any-return]


def pooled_maximum(x: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Return the adaptive maximum of x [B, C, h, w] over windows that may overlap, [B, C, *size_hw].

    Window i of n over a side of h covers [⌊i h / n⌋, ⌈(i + 1) h / n⌉).
    """
    for axis, count in ((-2, size_hw[0]), (-1, size_hw[1])):
        side = x.shape[axis]
        starts = [index * side // count for index in range(count)]
        ends = [-(-(index + 1) * side // count) for index in range(count)]
        steps = max(end - start for start, end in zip(starts, ends, strict=True))
        # Static gathers: TensorRT knows no adaptive pooling, and a window that is a little larger
        # than its neighbours takes its last entry twice.
        parts = [
            x.index_select(
                axis,
                torch.tensor(
                    [min(start + step, end - 1) for start, end in zip(starts, ends, strict=True)],
                    device=x.device,
                ),
            )
            for step in range(steps)
        ]
        x = parts[0]
        for part in parts[1:]:
            x = torch.maximum(x, part)
    return x
