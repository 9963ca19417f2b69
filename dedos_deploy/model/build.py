"""From a preset's numbers to the modules of a model."""

from __future__ import annotations

import torch

from dedos_deploy.model.clip_trunk import ClipTrunk
from dedos_deploy.model.cost_aggregation import CatSegAggregation, CostAggregation
from dedos_deploy.model.dedos import Dedos, Parts
from dedos_deploy.model.detail_branch import DetailBranch
from dedos_deploy.model.mask_decoder import MaskDecoder
from dedos_deploy.model.mobile_branch import MobileBranch
from dedos_deploy.model.picture_queries import QueryGate
from dedos_deploy.model.pixel_decoder import MaskFeatures, PixelDecoder
from dedos_deploy.model.proxy_queries import ProxyQueries
from dedos_deploy.model.query_reader import ClipReader
from dedos_deploy.model.refinement import Refinement
from dedos_deploy.model.text_aggregation import TextAggregation
from dedos_deploy.model.text_tower import TextTower
from dedos_deploy.presets import ModelConfig


def build_model(config: ModelConfig, *, seed: int = 0) -> Dedos:
    """Return a DEDOS model with random weights drawn from `seed`, in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Dedos(config, _parts(config)).eval()


def _parts(config: ModelConfig) -> Parts:
    """Return the modules; their order decides which weights a seed draws."""
    clip, width = config.clip, config.query_width
    trunk = ClipTrunk(clip, config.refine_blocks)
    text_tower = TextTower(clip.text, clip.text_width, clip.activation)
    proxy_queries = ProxyQueries(
        config.basic_kernel, config.diffusion_kernel, config.steps, sets=config.query_sets
    )
    refinement = Refinement(width, clip.width, norm=config.refine_norm)
    detail = _detail_branch(config)
    detail_widths = detail.widths if detail is not None else ()
    return Parts(
        trunk=trunk,
        text_tower=text_tower,
        proxy_queries=proxy_queries,
        refinement=refinement,
        detail=detail,
        pixel_decoder=PixelDecoder(
            config.pixel_decoder,
            clip_width=clip.width,
            width=width,
            layers=config.pixel_layers,
            ffn=config.pixel_ffn,
            heads=config.decoder_heads,
            detail_widths=detail_widths,
        ),
        cost_aggregation=_cost_aggregation(config),
        mask_features=MaskFeatures(width, detail_widths),
        mask_decoder=MaskDecoder(
            width,
            queries=config.queries,
            layers=config.decoder_layers,
            heads=config.decoder_heads,
            ffn=config.decoder_ffn,
        ),
        text_aggregation=TextAggregation(
            width, clip.text_width, blocks=config.text_blocks, heads=config.decoder_heads
        ),
        picture_queries=_picture_queries(config),
    )


def _picture_queries(config: ModelConfig) -> QueryGate | ClipReader | None:
    if config.query_source == "mixed":
        return QueryGate(config.clip.width, config.query_sets)
    if config.query_source == "clip":
        return ClipReader(config.clip.width, config.query_width)
    return None


def _detail_branch(config: ModelConfig) -> DetailBranch | MobileBranch | None:
    if config.detail == "mobile":
        return MobileBranch()
    return DetailBranch(config.detail_width) if config.detail_width else None


def _cost_aggregation(config: ModelConfig) -> CostAggregation | None:
    if config.aggregation == "none":
        return None
    kind = CatSegAggregation if config.aggregation == "catseg" else CostAggregation
    return kind(config.query_width, config.clip.text_width, config.aggregation_width)
