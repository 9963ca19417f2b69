"""Freezing: the trained model as the constant, exportable graph, in FP32 or FP16 by construction."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from dedos_deploy.model.blocks import Arithmetic
from dedos_deploy.model.clip_trunk import PatchEmbedding, PositionEmbedding
from dedos_deploy.model.dedos import Dedos
from dedos_deploy.model.detail_branch import ConvUnit
from dedos_deploy.model.heads import DenseClip
from dedos_deploy.model.msdeform import DeformableAttention, Sampling
from dedos_deploy.model.refinement import Refinement


class FrozenProxy(nn.Module):
    """The proxy bank as a constant [n, c]."""

    value: Tensor

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.register_buffer("value", value)

    def forward(self) -> Tensor:
        return self.value


class FrozenDedos(nn.Module):
    """(image uint8 [B, H, W, 3], text [K, D], valid [K]) -> scores [B, K, H // 4, W // 4]."""

    def __init__(self, model: Dedos | DenseClip, score_dtype: torch.dtype) -> None:
        super().__init__()
        self.model = model
        self.score_dtype = score_dtype

    def forward(self, image: Tensor, text: Tensor, valid: Tensor) -> Tensor:
        scores: Tensor = self.model(image, text, valid)
        return scores.to(self.score_dtype)


def freeze(
    model: Dedos | DenseClip,
    *,
    size_hw: tuple[int, int],
    precision: Arithmetic = "fp32",
    deformable: Sampling = "grid_sample",
    score_dtype: torch.dtype = torch.float32,
) -> FrozenDedos:
    """Return an independent copy of `model` ready for export at one input size.

    Folded exactly (in float64, rounded once): preprocessing and BGR order into the patch
    embedding, the proxy bank and its MLP into the refinement, BatchNorm into convolutions, the
    position embedding at this grid. The text tower is dropped. `precision="fp16"` makes the
    weights of Linear and convolution layers half; see Note [Precision islands] in `blocks.py`.

    Raises BadInputError when `size_hw` does not fit the patch, or the windows of a dense CLIP.
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


def _fold(model: Dedos | DenseClip, size_hw: tuple[int, int]) -> None:
    trunk, patch = model.trunk, model.config.clip.patch
    if isinstance(model, Dedos):
        _fold_proxy(model)
    else:
        size_hw = model.config.seen_hw(size_hw)
    grid_hw = (size_hw[0] // patch, size_hw[1] // patch)
    if isinstance(trunk.patch_embedding, PatchEmbedding):
        trunk.patch_embedding = trunk.patch_embedding.folded()
    if isinstance(trunk.position, PositionEmbedding):
        trunk.position = trunk.position.frozen(grid_hw)
    for unit in [module for module in model.modules() if isinstance(module, ConvUnit)]:
        conv, norm = unit[0], unit[1]
        assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
        unit[0], unit[1] = fuse_conv_bn_eval(conv, norm), nn.Identity()


def _fold_proxy(model: Dedos) -> None:
    with torch.no_grad():
        proxy = model.proxy_queries()
        if isinstance(model.refinement, Refinement):
            model.refinement = model.refinement.folded(model.refinement.q_hat(proxy))
    model.proxy_queries = FrozenProxy(proxy)  # type: ignore[assignment]


def _halve(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.half()
