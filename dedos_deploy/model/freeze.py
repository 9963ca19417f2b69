"""Freezing: the trained model as the constant, exportable graph, in FP32 or FP16 by construction."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from dedos_deploy.model.blocks import Arithmetic, Constant, QuickGelu, TransformerBlock
from dedos_deploy.model.clip_trunk import ClipTrunk, PatchEmbedding, PositionEmbedding
from dedos_deploy.model.dedos import Dedos
from dedos_deploy.model.detail_branch import ConvUnit
from dedos_deploy.model.heads import DenseClip
from dedos_deploy.model.msdeform import DeformableAttention, Sampling
from dedos_deploy.model.peers import Peer, San
from dedos_deploy.model.peers.cat_seg import ValueBlock
from dedos_deploy.model.peers.san import SideAdapter
from dedos_deploy.model.picture_queries import FrozenGate, QueryGate
from dedos_deploy.model.query_reader import ClipReader
from dedos_deploy.model.refinement import Refinement
from dedos_deploy.peer_configs import SIDE_PATCH

AnyModel = Dedos | DenseClip | Peer
"""What can be deployed: (image, text, valid) -> scores."""


class FrozenDedos(nn.Module):
    """(image uint8 [B, H, W, 3], text [K, D], valid [K]) -> scores [B, K, H // 4, W // 4]."""

    def __init__(self, model: AnyModel, score_dtype: torch.dtype) -> None:
        super().__init__()
        self.model = model
        self.score_dtype = score_dtype

    def forward(self, image: Tensor, text: Tensor, valid: Tensor) -> Tensor:
        scores: Tensor = self.model(image, text, valid)
        return scores.to(self.score_dtype)


def freeze(
    model: AnyModel,
    *,
    size_hw: tuple[int, int],
    precision: Arithmetic = "fp32",
    deformable: Sampling = "grid_sample",
    score_dtype: torch.dtype = torch.float32,
) -> FrozenDedos:
    """Return an independent copy of `model` ready for export at one input size.

    Folded exactly (in float64, rounded once): preprocessing and BGR order into the patch
    embedding, the proxy bank and its MLP into the refinement, BatchNorm into convolutions, the
    factor of QuickGELU into the products around it, the position embedding at this grid. The text
    tower is dropped. `precision="fp16"` makes the weights of Linear and convolution layers half; see
    Note [Precision islands] in `blocks.py`.

    Raises BadInputError when `size_hw` does not fit the patches, or the windows of a dense CLIP.
    """
    size = model.config.check_size(size_hw)
    frozen = copy.deepcopy(model).eval().requires_grad_(False)
    del frozen.text_tower
    _fold(frozen, size)
    for module in frozen.modules():
        if isinstance(module, DeformableAttention):
            module.sampling = deformable
    if precision == "fp16":
        _halve(frozen)
    return FrozenDedos(frozen, score_dtype).eval()


def _fold(model: AnyModel, size_hw: tuple[int, int]) -> None:
    seen_hw = size_hw
    if isinstance(model, Dedos):
        _fold_proxy(model)
    else:
        seen_hw = model.config.seen_hw(size_hw)
    _fold_vit(model.trunk, seen_hw, model.config.clip.patch)
    if isinstance(model, San):
        _fold_vit(model.side, size_hw, SIDE_PATCH)
    for unit in [module for module in model.modules() if isinstance(module, ConvUnit)]:
        conv, norm = unit[0], unit[1]
        assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
        unit[0], unit[1] = fuse_conv_bn_eval(conv, norm), nn.Identity()
    for module in model.modules():
        if isinstance(module, TransformerBlock | ValueBlock) and isinstance(module.act, QuickGelu):
            _fold_quick_gelu(module)


def _fold_quick_gelu(block: TransformerBlock | ValueBlock) -> None:
    """Write x σ(1.702 x) as y σ(y) / 1.702 of y = 1.702 x, with the factors in the weights around it.

    TensorRT computes y σ(y) in the product that makes y, and the other form in a kernel of its own. In
    float16 x may reach 38000, a hundred times what CLIP's does.
    """
    with torch.no_grad():
        for tensor, factor in (
            (block.fc.weight, QuickGelu.FACTOR),
            (block.fc.bias, QuickGelu.FACTOR),
            (block.proj.weight, 1 / QuickGelu.FACTOR),
        ):
            tensor.copy_(tensor.double() * factor)
    block.act = nn.SiLU()


def _fold_vit(part: ClipTrunk | SideAdapter, seen_hw: tuple[int, int], patch: int) -> None:
    """Fold preprocessing into the patch embedding of `part`, and its positions at one grid."""
    if isinstance(part.patch_embedding, PatchEmbedding):
        part.patch_embedding = part.patch_embedding.folded()
    if isinstance(part.position, PositionEmbedding):
        part.position = part.position.frozen((seen_hw[0] // patch, seen_hw[1] // patch))


def _fold_proxy(model: Dedos) -> None:
    with torch.no_grad():
        proxy = model.proxy_queries()
        refinement, asked = model.refinement, model.picture_queries
        if isinstance(refinement, Refinement):
            if isinstance(asked, QueryGate):
                model.refinement = refinement.folded_sets(refinement.q_hat(proxy))
                model.picture_queries = FrozenGate(asked, proxy)
            elif isinstance(asked, ClipReader):
                model.refinement = refinement.split()
            else:
                model.refinement = refinement.folded(refinement.q_hat(proxy))
    model.proxy_queries = Constant(proxy)  # type: ignore[assignment]


def _halve(model: nn.Module) -> None:
    """Turn the weights of Linear and convolution layers to half; see Note [Precision islands]."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.half()
