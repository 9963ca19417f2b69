"""CAT-Seg (Cho et al., CVPR 2024) in the graph contract: CLIP's cost volume, aggregated.

CLIP sees the picture as 24x24 patches whatever its size; its last block keeps the values only. The
cosines with all words are aggregated by `volume_blocks.py` and `cost_volume.py`. Written from the paper
and from the published tensors; `benchmarks/peers.py` compares it with the authors' own module.
"""

from __future__ import annotations

from dataclasses import replace

import torch.nn.functional as F
from torch import Tensor, nn

from dedos_deploy.model.blocks import (
    LayerNorm,
    activation,
    map_from_tokens,
    normalize,
    resize_map,
)
from dedos_deploy.model.clip_trunk import ClipTrunk
from dedos_deploy.model.peers.cost_volume import PaddedWordBlock, UpBlock
from dedos_deploy.model.peers.pictures import resized
from dedos_deploy.model.text_tower import TextTower
from dedos_deploy.model.volume_blocks import AggregationLayer, volume_grid
from dedos_deploy.peer_configs import GRID, CatSegConfig
from dedos_deploy.presets import Activation
from dedos_deploy.spec import SCORE_STRIDE

LIFTS = (2, 4)
"""How many times finer the decoder's two guidance maps are than CLIP's patches."""


class ValueBlock(nn.Module):
    """CLIP's last block for dense features: each patch its own projected value, beside the CLS token.

    mix: value and output projection in one, since no attention stands between them.
    """

    def __init__(self, width: int, act: Activation) -> None:
        super().__init__()
        self.ln_1 = LayerNorm(width)
        self.mix = nn.Linear(width, width)
        self.ln_2 = LayerNorm(width)
        self.fc = nn.Linear(width, 4 * width)
        self.act = activation(act)
        self.proj = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 1 + N, C] -> [B, N, C]."""
        dense = self.mix(self.ln_1(x[:, 1:])) + x[:, :1]
        return dense + self.proj(self.act(self.fc(self.ln_2(dense))))  # type: ignore[no-any-return]


class Lift(nn.Module):
    """A transposed convolution whose kernel is its stride: one matrix product, then reordering."""

    def __init__(self, width: int, out: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.linear = nn.Linear(width, out * factor * factor)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, N, C] -> [B, out, f * 24, f * 24]."""
        return F.pixel_shuffle(map_from_tokens(self.linear(tokens), (GRID, GRID)), self.factor)


class WordCosines(nn.Module):
    """Projected patches [B, N, D] and text [K, D] -> cosines float32 [B, K, N]."""

    def forward(self, tokens: Tensor, text: Tensor) -> Tensor:
        return text.float() @ normalize(tokens).transpose(1, 2)


class CatSeg(nn.Module):
    """CAT-Seg in the graph contract (`dedos_deploy.spec`); scores are independent sigmoids."""

    half_scores = False
    """Frozen in fp16, the scores are still computed in float32."""

    def __init__(self, config: CatSegConfig) -> None:
        super().__init__()
        self.config = config
        clip, width = config.clip, config.width
        self.taps = (clip.layers // 3 - 1, 2 * clip.layers // 3 - 1)
        self.trunk = ClipTrunk(replace(clip, layers=clip.layers - 1), ())
        self.last = ValueBlock(clip.width, clip.activation)
        self.text_tower = TextTower(clip.text, clip.text_width, clip.activation)
        self.lifts = nn.ModuleList(
            Lift(clip.width, out, factor) for out, factor in zip(config.lifted, LIFTS, strict=True)
        )
        self.word_cosines = WordCosines()
        self.embed = nn.Conv2d(1, width, 7, padding=3)
        self.guide = nn.Conv2d(clip.text_width, config.guidance, 3, padding=1)
        self.guide_words = nn.Linear(clip.text_width, config.text_guidance)
        self.guide_fine = nn.ModuleList(
            nn.Conv2d(lifted, projected, 3, padding=1)
            for lifted, projected in zip(config.lifted, config.decoder_guidance, strict=True)
        )
        self.layers = nn.ModuleList(
            AggregationLayer(width, config.guidance, PaddedWordBlock(width, config.text_guidance))
            for _ in range(config.layers)
        )
        inputs = (width, config.decoder[0])
        self.ups = nn.ModuleList(
            UpBlock(wide, guidance, out, GRID * factor // 2)
            for wide, guidance, out, factor in zip(
                inputs, config.decoder_guidance, config.decoder, LIFTS, strict=True
            )
        )
        self.head = nn.Conv2d(config.decoder[1], 1, 3, padding=1)

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Return text embeddings [N, D], not normalised, of BPE tokens int64 [N, L]."""
        return self.text_tower(tokens)  # type: ignore[no-any-return]

    def forward(self, image: Tensor, text: Tensor, valid: Tensor) -> Tensor:
        size_hw = (image.shape[1], image.shape[2])
        scores = self.logits(image, text, valid).float().sigmoid() * valid[:, None, None]
        score_hw = (size_hw[0] // SCORE_STRIDE, size_hw[1] // SCORE_STRIDE)
        return resize_map(scores, score_hw)

    def logits(self, image: Tensor, text: Tensor, valid: Tensor) -> Tensor:
        """Return the decoder's own maps, [B, K, 96, 96]."""
        tokens, taps = self._clip(image)
        guidance = F.relu(self.guide(map_from_tokens(tokens, (GRID, GRID))))
        fine = [
            F.relu(project(lift(tap)))
            for lift, project, tap in zip(self.lifts, self.guide_fine, taps, strict=True)
        ]
        words = F.relu(self.guide_words(text.to(tokens.dtype)))
        x = self._volume(tokens, text)
        grid = volume_grid((GRID, GRID), x.device)
        for layer in self.layers:
            x = layer(x, guidance.flatten(2).transpose(1, 2), words, valid, grid)
        batch, _, cells, width = x.shape
        y = x.reshape(-1, cells, width).transpose(1, 2).reshape(-1, width, GRID, GRID)
        for up, finer in zip(self.ups, fine, strict=True):
            y = up(y, finer)
        maps = self.head(y)
        return maps.reshape(batch, -1, *maps.shape[2:])  # type: ignore[no-any-return]

    def _clip(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return CLIP's projected patches [B, N, D], and its tokens [B, N, C] after two blocks."""
        x = self.trunk.embed(resized(image, self.config.seen_hw((image.shape[1], image.shape[2]))))
        taps: list[Tensor] = []
        for index, block in enumerate(self.trunk.blocks):
            x = block(x)
            if index in self.taps:
                taps.append(x[:, 1:])
        return self.trunk.proj(self.trunk.ln_post(self.last(x))), taps

    def _volume(self, tokens: Tensor, text: Tensor) -> Tensor:
        """Return the lifted cosines [B, K, N, C]."""
        cosine = self.word_cosines(tokens, text)
        planes = cosine.to(tokens.dtype).reshape(-1, 1, GRID, GRID)
        lifted = self.embed(planes).flatten(2).transpose(1, 2)
        return lifted.reshape(len(tokens), -1, GRID * GRID, lifted.shape[-1])  # type: ignore[no-any-return]
