"""DEDOS as one module: the diffusion-free graph, and what training reads beside it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dedos_deploy.model.clip_trunk import ClipTrunk
from dedos_deploy.model.cost_aggregation import CostAggregation
from dedos_deploy.model.detail_branch import DetailBranch
from dedos_deploy.model.mask_decoder import MaskDecoder
from dedos_deploy.model.mobile_branch import MobileBranch
from dedos_deploy.model.picture_queries import (
    BankQueries,
    MixedQueries,
    QueryGate,
    ReadQueries,
)
from dedos_deploy.model.pixel_decoder import MaskFeatures, PixelDecoder
from dedos_deploy.model.proxy_queries import ProxyQueries
from dedos_deploy.model.query_reader import ClipReader
from dedos_deploy.model.refinement import AnyRefinement, Refinement
from dedos_deploy.model.text_aggregation import TextAggregation, scores_from_logits
from dedos_deploy.model.text_tower import TextTower
from dedos_deploy.presets import ModelConfig
from dedos_deploy.spec import SCORE_STRIDE

_AUTOCAST = ("cpu", "cuda")


@dataclass(frozen=True)
class Predictions:
    """What the criterion reads."""

    class_logits: Tensor
    """[B, Q, K]."""
    mask_logits: Tensor
    """[B, Q, h, w]."""
    auxiliary: tuple[tuple[Tensor, Tensor], ...]
    """The same pair for the queries before the first decoder layer and after each one but the
    last."""
    dense_logits: Tensor | None
    """[B, K, gh, gw] class logits of the cost aggregation, None without it."""
    tokens: Tensor
    """[B, N, C] refined patch tokens of the trunk's last block."""
    set_weights: Tensor | None
    """[B, M] the decoder's weights of the sets of proxy queries, None for one set."""
    read: tuple[Tensor, ...]
    """Q_l [B, n, c] that the ClipReader made at every refined block, empty where none reads."""


@dataclass(frozen=True)
class ImageFeatures:
    """What the words of a list have no part in: made once per image, for any number of lists."""

    proxy: Tensor
    """[n, c] or [B, n, c], the queries."""
    levels: tuple[Tensor, ...]
    """Coarse to fine, [B, c, h, w]."""
    detail: tuple[Tensor, ...]
    """Maps of the detail branch, [B, ...]; empty without it."""
    clip_embedding: Tensor | None
    """[B, N, D], CLIP's own projection of its patches; None without cost aggregation."""
    score_hw: tuple[int, int]
    """Size of the score map."""
    tokens: Tensor
    """See Predictions."""
    set_weights: Tensor | None
    """See Predictions."""
    read: tuple[Tensor, ...]
    """See Predictions."""


@dataclass(frozen=True)
class _Features:
    objects: list[Tensor]
    mask_features: Tensor
    dense_logits: Tensor | None


@dataclass(frozen=True, eq=False)
class Parts:
    """The modules of one model, which fit each other."""

    trunk: ClipTrunk
    text_tower: TextTower
    proxy_queries: ProxyQueries
    refinement: Refinement
    detail: DetailBranch | MobileBranch | None
    """Gives the pixel decoder what a plain ViT lacks; None without it."""
    pixel_decoder: PixelDecoder
    cost_aggregation: CostAggregation | None
    mask_features: MaskFeatures
    mask_decoder: MaskDecoder
    text_aggregation: TextAggregation
    picture_queries: QueryGate | ClipReader | None


class Dedos(nn.Module):
    """Refined CLIP, pixel decoder, cost aggregation, mask decoder, text aggregation.

    Inputs and outputs follow the graph contract (`dedos_deploy.spec`): image uint8 [B, H, W, 3]
    BGR, text float32 [K, D] unit rows, valid float32 [K]; scores [B, K, H // 4, W // 4] in [0, 1].
    """

    half_scores = True
    """Frozen in fp16, the scores are computed in float16."""

    def __init__(self, config: ModelConfig, parts: Parts) -> None:
        """Put `parts` together as `config`, from which `build_model` made them, says."""
        super().__init__()
        self.config = config
        self.taps = decoder_taps(config.clip.layers)
        self.trunk = parts.trunk
        self.text_tower = parts.text_tower
        self.proxy_queries = parts.proxy_queries
        self.refinement: AnyRefinement = parts.refinement
        self.detail = parts.detail
        self.pixel_decoder = parts.pixel_decoder
        self.cost_aggregation = parts.cost_aggregation
        self.mask_features = parts.mask_features
        self.mask_decoder = parts.mask_decoder
        self.text_aggregation = parts.text_aggregation
        self.picture_queries = parts.picture_queries

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Return text embeddings [N, D], not normalised, of BPE tokens int64 [N, L]."""
        return self.text_tower(tokens)  # type: ignore[no-any-return]

    def forward(self, image: Tensor, text: Tensor, valid: Tensor) -> Tensor:
        return self.scores(image, text, valid)

    def scores(
        self, image: Tensor, text: Tensor, valid: Tensor, proxy: Tensor | None = None
    ) -> Tensor:
        """Return what `forward` returns, by the queries `proxy` (as `predict`) or the bank's."""
        return self.scores_of(self.image_features(image, proxy), text, valid)

    def predict(
        self,
        image: Tensor,
        text: Tensor,
        valid: Tensor,
        proxy: Tensor | None = None,
        start: Tensor | None = None,
    ) -> Predictions:
        """Return all logits that training supervises.

        proxy: global queries Q, [n, c] or the images' own [B, n, c] (M sets: [M, n, c], [B, M, n, c]);
        default: the proxy bank. start: [n, c], what a ClipReader reads from where `proxy` is the
        images' own, which otherwise leave it out.
        """
        shared = self.image_features(image, proxy, start)
        features = self._with_words(shared, text, valid)
        pairs = [
            (
                self.text_aggregation(objects, text, valid),
                self.mask_decoder.mask_logits(objects, features.mask_features),
            )
            for objects in features.objects
        ]
        return Predictions(
            *pairs[-1],
            tuple(pairs[:-1]),
            features.dense_logits,
            shared.tokens,
            shared.set_weights,
            shared.read,
        )

    def _detail_maps(self, image: Tensor) -> tuple[Tensor, ...]:
        if self.detail is None:
            return ()
        kind = image.device.type
        if self.config.detail == "mobile" and kind in _AUTOCAST and torch.is_autocast_enabled(kind):
            # It never learns, so bfloat16 would only show the rest another branch than it gets.
            with torch.autocast(kind, enabled=False):
                return self.detail(image)  # type: ignore[no-any-return]
        return self.detail(image)  # type: ignore[no-any-return]

    def refined_tokens(self, image: Tensor) -> list[Tensor]:
        """Return the patch tokens [B, N, C] that feed the decoder, by the bank, uint8 [B, H, W, 3] in."""
        asked = self._asked(self.proxy_queries(), None)
        return self.trunk(image, asked, asked.q_hat, self.taps)  # type: ignore[no-any-return]

    def image_features(
        self, image: Tensor, proxy: Tensor | None = None, start: Tensor | None = None
    ) -> ImageFeatures:
        """Return all of `scores` that the words have no part in; proxy, start: as `predict`.

        image: uint8 [B, H, W, 3] BGR.
        """
        patch = self.config.clip.patch
        height, width = image.shape[1], image.shape[2]
        grid_hw = (height // patch, width // patch)
        asked = self._asked(self.proxy_queries() if proxy is None else proxy, start)
        taps = self.trunk(image, asked, asked.q_hat, self.taps)
        detail = self._detail_maps(image)
        levels = self.pixel_decoder(taps, grid_hw, detail)
        clip_embedding: Tensor | None = None
        if self.cost_aggregation is not None:
            clip_embedding = self.trunk.proj(self.trunk.ln_post(taps[-1]))
        score_hw = (height // SCORE_STRIDE, width // SCORE_STRIDE)
        return ImageFeatures(
            asked.queries(),
            tuple(levels),
            tuple(detail),
            clip_embedding,
            score_hw,
            taps[-1],
            asked.weights,
            asked.read,
        )

    def _asked(self, proxy: Tensor, start: Tensor | None) -> BankQueries:
        """Return the queries of one pass."""
        if isinstance(self.picture_queries, QueryGate):
            return MixedQueries(self.picture_queries, self.refinement, proxy)
        if isinstance(self.picture_queries, ClipReader):
            return ReadQueries(self.picture_queries, self.refinement, proxy, start)
        return BankQueries(self.refinement, proxy)

    def scores_of(self, features: ImageFeatures, text: Tensor, valid: Tensor) -> Tensor:
        """Return scores [B, K, h, w] of images whose `image_features` are known."""
        objects, mask_logits = self.objects_of(features, text, valid)
        class_logits = self.text_aggregation(objects, text, valid)
        return scores_from_logits(class_logits, mask_logits, valid)

    def objects_of(
        self, features: ImageFeatures, text: Tensor, valid: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the decoder's last queries [B, n, c] and their mask logits [B, n, h, w]."""
        found = self._with_words(features, text, valid)
        objects = found.objects[-1]
        return objects, self.mask_decoder.mask_logits(objects, found.mask_features)

    def _with_words(self, features: ImageFeatures, text: Tensor, valid: Tensor) -> _Features:
        levels, detail = list(features.levels), features.detail
        dense: Tensor | None = None
        if self.cost_aggregation is not None:
            levels, dense = self.cost_aggregation(levels, features.clip_embedding, text, valid)
        mask_features = self.mask_features(levels[-1], features.score_hw, detail)
        objects = self.mask_decoder(features.proxy, levels, mask_features)
        return _Features(objects, mask_features, dense)


def decoder_taps(layers: int) -> tuple[int, int, int]:
    """Return the trunk blocks whose outputs feed the fine, middle and coarse levels.

    >>> decoder_taps(12), decoder_taps(24), decoder_taps(6)
    ((5, 8, 11), (11, 17, 23), (2, 3, 5))
    """
    return layers // 2 - 1, 3 * layers // 4 - 1, layers - 1
