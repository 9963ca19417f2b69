"""A CLIP that labels every pixel by a head without training, in the contract of the deployed graph."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dedos_deploy.head_numbers import Head, NaclipHead, ScClipHead
from dedos_deploy.model.blocks import map_from_tokens, normalize, resize_map
from dedos_deploy.model.clip_trunk import ClipTrunk, PositionEmbedding
from dedos_deploy.model.heads import last_block
from dedos_deploy.model.heads.maskclip import MaskClip
from dedos_deploy.model.heads.naclip import Naclip
from dedos_deploy.model.heads.sc_clip import ScClip
from dedos_deploy.model.heads.scores import WordLogits, word_shares
from dedos_deploy.model.heads.windows import averaged, cut_windows
from dedos_deploy.model.text_tower import TextTower
from dedos_deploy.presets import DenseConfig
from dedos_deploy.spec import SCORE_STRIDE


class ScaledPosition(PositionEmbedding):
    """Learned positions, resized as the published dense heads do it.

    Bicubic by the scale (side + 0.1) / grid, where the tenth of a patch once kept a floor from taking
    a row away; figures of the papers were made with it, and it moves every position a little.
    """

    def resized(self, square: Tensor, grid_hw: tuple[int, int]) -> Tensor:
        scale = [(side + 0.1) / self.grid for side in grid_hw]
        return F.interpolate(square, scale_factor=scale, mode="bicubic", align_corners=False)


class DenseClip(nn.Module):
    """CLIP's trunk up to its last block, a dense head, and cosines with the words.

    Inputs and outputs follow the graph contract (`dedos_deploy.spec`): image uint8 [B, H, W, 3]
    BGR, text float32 [K, D] unit rows, valid float32 [K]; scores [B, K, H // 4, W // 4] in [0, 1],
    the words' part of a softmax over the words and the null rows of `word_logits`.
    """

    half_scores = False
    """Frozen in fp16, the scores are still computed in float32."""

    def __init__(self, config: DenseConfig) -> None:
        super().__init__()
        self.config = config
        clip = config.clip
        self.trunk = ClipTrunk(clip, ())
        self.trunk.position = ScaledPosition(clip.grid, clip.width)
        self.text_tower = TextTower(clip.text, clip.text_width, clip.activation)
        self.head: last_block.Head = _head(config.head)
        self.word_logits = WordLogits(config.tau, clip.text_width)

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Return text embeddings [N, D], not normalised, of BPE tokens int64 [N, L]."""
        return self.text_tower(tokens)  # type: ignore[no-any-return]

    def forward(self, image: Tensor, text: Tensor, valid: Tensor) -> Tensor:
        return self.scores_of(self.image_features(image), text, valid, image.shape[1:3])

    def image_features(self, image: Tensor) -> Tensor:
        """Return the patch embeddings of `dense` of pictures, or of their windows one after another."""
        windows = self.config.windows
        return self.dense(image if windows is None else cut_windows(image, windows))

    def scores_of(
        self, features: Tensor, text: Tensor, valid: Tensor, size_hw: Sequence[int]
    ) -> Tensor:
        """Return scores [B, K, H / 4, W / 4] of pictures of H x W whose `image_features` are known."""
        height, width = size_hw
        windows = self.config.windows
        if windows is None:
            logits = self._logits(features, text, valid, (height, width))
        else:
            maps = self._logits(features, text, valid, (windows.size, windows.size))
            logits = averaged(maps, windows, (height, width))
        return word_shares(logits, text.shape[0])

    def _logits(
        self, features: Tensor, text: Tensor, valid: Tensor, size_hw: tuple[int, int]
    ) -> Tensor:
        """Return τ·cos [B, K + M, H / 4, W / 4]; resized before the softmax, as the papers do."""
        height, width = size_hw
        patch = self.config.clip.patch
        logits = self.word_logits(features, text, valid)
        grid = map_from_tokens(logits.transpose(1, 2), (height // patch, width // patch))
        return resize_map(grid, (height // SCORE_STRIDE, width // SCORE_STRIDE))

    def embedding_map(self, image: Tensor) -> Tensor:
        """Return float32 [B, D, h, w] of pictures: unit rows of the patches, of windows their mean on the
        score map, so that its product with a word is the word's cosine as `scores_of` has it."""
        (height, width), windows = image.shape[1:3], self.config.windows
        rows, patch = normalize(self.image_features(image)), self.config.clip.patch
        if windows is None:
            return map_from_tokens(rows, (height // patch, width // patch))
        side = windows.size // SCORE_STRIDE
        grid = map_from_tokens(rows, (windows.size // patch, windows.size // patch))
        return averaged(resize_map(grid, (side, side)), windows, (height, width))

    def dense(self, image: Tensor) -> Tensor:
        """Return patch embeddings [B, N, D] in the space of the words, not normalised."""
        trunk, patch = self.trunk, self.config.clip.patch
        x = trunk.embed(image)
        tokens: list[Tensor] = []
        for block in trunk.blocks[:-1]:
            x = block(x)
            tokens.append(x)
        last = trunk.blocks[-1]
        features = self.head(tokens, last, (image.shape[1] // patch, image.shape[2] // patch))  # type: ignore[arg-type]
        embedding: Tensor = trunk.proj(trunk.ln_post(features))
        return embedding


def _head(numbers: Head) -> ScClip | Naclip | MaskClip:
    if isinstance(numbers, ScClipHead):
        return ScClip(numbers)
    return Naclip(numbers) if isinstance(numbers, NaclipHead) else MaskClip(numbers)


def build_dense(config: DenseConfig, *, seed: int = 0) -> DenseClip:
    """Return a dense CLIP with random weights drawn from `seed` and without null rows, in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return DenseClip(config).eval()
