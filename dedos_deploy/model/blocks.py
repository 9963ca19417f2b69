"""Shared blocks, written so that one module serves training, FP32 export and FP16 export.

Note [Precision islands]
`freeze(precision="fp16")` turns the weights of Linear and convolution layers to half. Whatever must
stay in float32 says so here, by casting up and back around itself: LayerNorm, softmax, L2
normalisation, linear attention's normaliser. In float32 these casts are no-ops and leave no node.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dedos_deploy.presets import Activation

MASKED = -1.0e4
"""Logit of a masked key: finite, since -inf rows give NaN, and inside float16's range."""


FUSED_FROM = 2**18
"""Entries of an attention matrix from which training uses fused attention: it keeps no matrix, but on
a CPU the plain form is a tenth faster for the few hundred tokens of `nano`."""

_fused: ContextVar[bool] = ContextVar("_fused", default=False)


@contextlib.contextmanager
def fused_attention() -> Iterator[None]:
    """Make no large attention matrix in here, although no gradient flows.

    Not while a graph is exported or counted, which needs the plain form.
    """
    before = _fused.set(True)
    try:
        yield
    finally:
        _fused.reset(before)


class LayerNorm(nn.LayerNorm):
    """LayerNorm over the last axis, computed in float32, returned in the input's dtype."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.float()).to(input.dtype)


class Constant(nn.Module):
    """What a frozen model has in a module's place: its result, for one size of pictures."""

    value: Tensor

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.register_buffer("value", value)

    def forward(self, grid_hw: tuple[int, int] | None = None) -> Tensor:
        return self.value


class QuickGelu(nn.Module):
    """x * sigmoid(1.702 x), the activation OpenAI's CLIP weights were trained with."""

    FACTOR = 1.702

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.FACTOR * x)


class Gelu(nn.Module):
    """x / 2 (1 + erf(x / √2)), in the order in which ONNX Runtime recognises it as one operation."""

    def forward(self, x: Tensor) -> Tensor:
        return (x * 0.5) * (torch.erf(x / 2**0.5) + 1)


def activation(kind: Activation) -> nn.Module:
    """Return the activation of a CLIP: OpenAI's weights were trained with QuickGELU."""
    return QuickGelu() if kind == "quick_gelu" else nn.GELU()


def softmax(logits: Tensor) -> Tensor:
    """Return softmax over the last axis, computed in float32, in the input's dtype."""
    return logits.float().softmax(-1).to(logits.dtype)


def normalize(x: Tensor) -> Tensor:
    """Return x scaled to unit L2 norm over the last axis, in float32."""
    x = x.float()
    norm = torch.rsqrt((x * x).sum(-1, keepdim=True) + 1e-12)
    return x * norm


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[B, N, C] -> [B, heads, N, C / heads]."""
    batch, tokens, width = x.shape
    return x.reshape(batch, tokens, heads, width // heads).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """[B, heads, N, d] -> [B, N, heads * d]."""
    batch, heads, tokens, width = x.shape
    return x.transpose(1, 2).reshape(batch, tokens, heads * width)


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, bias: Tensor | None = None) -> Tensor:
    """Return multi-head attention softmax(q kᵀ / √d + bias) v, [B, N, C].

    q: [B, N, C]; k, v: [B, M, C]; d = C / heads; bias: float32, broadcast to [B, heads, N, M].
    """
    q, k, v = (split_heads(part, heads) for part in (q, k, v))
    if (q.requires_grad or _fused.get()) and q.shape[-2] * k.shape[-2] >= FUSED_FROM:
        # The same function without the [N, M] matrices, which autograd would keep: they are most of
        # the memory of a ViT at 640. Graphs to export need the plain form, and have no gradient.
        mask = bias if bias is None else bias.to(q.dtype)
        return merge_heads(F.scaled_dot_product_attention(q, k, v, attn_mask=mask))
    logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if bias is not None:
        logits = logits.float() + bias
    return merge_heads(softmax(logits).to(v.dtype) @ v)


class TransformerBlock(nn.Module):
    """CLIP's pre-norm block, of both towers, with open_clip's fused qkv projection."""

    def __init__(self, width: int, heads: int, act: Activation) -> None:
        super().__init__()
        self.heads = heads
        self.ln_1 = LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.ln_2 = LayerNorm(width)
        self.fc = nn.Linear(width, 4 * width)
        self.act = activation(act)
        self.proj = nn.Linear(4 * width, width)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """x: [B, N, C]; bias: float32 attention bias broadcast to [B, heads, N, N]."""
        q, k, v = self.qkv(self.ln_1(x)).chunk(3, dim=-1)
        x = x + self.out(attend(q, k, v, self.heads, bias))
        mixed: Tensor = x + self.proj(self.act(self.fc(self.ln_2(x))))
        return mixed


def linear_attend(q: Tensor, k: Tensor, v: Tensor, valid: Tensor) -> Tensor:
    """Return linear attention with feature map φ = elu + 1 (Katharopoulos et al., Eq. 4-6).

    out_i = φ(q_i) Σ_j m_j φ(k_j)ᵀ v_j / (φ(q_i) · Σ_j m_j φ(k_j)), all in float32, where the mask
    m = valid [..., K] in {0, 1} removes padded keys exactly.

    q: [..., N, d]; k: [..., K, d]; v: [..., K, e]; returns float32 [..., N, e].
    """
    q, k, v = F.elu(q.float()) + 1, (F.elu(k.float()) + 1) * valid[..., None], v.float()
    normaliser = (q * k.sum(-2, keepdim=True)).sum(-1, keepdim=True)
    mixed: Tensor = (q @ (k.transpose(-1, -2) @ v)) / (normaliser + 1e-6)
    return mixed


def resize_map(x: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Return x [B, C, h, w] bilinearly resized (half-pixel centres); x itself when it fits."""
    if (x.shape[-2], x.shape[-1]) == tuple(size_hw):
        return x
    return F.interpolate(x, size=size_hw, mode="bilinear", align_corners=False)


def tokens_from_map(x: Tensor) -> Tensor:
    """[B, C, h, w] -> [B, h * w, C]."""
    return x.flatten(2).transpose(1, 2)


def map_from_tokens(x: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """[B, h * w, C] -> [B, C, h, w]."""
    return x.transpose(1, 2).reshape(x.shape[0], x.shape[2], *size_hw)


class Mlp(nn.Sequential):
    """Linear layers of the given widths with ReLU between them."""

    def __init__(self, *widths: int) -> None:
        layers: list[nn.Module] = []
        for index, (wide, narrow) in enumerate(itertools.pairwise(widths)):
            layers += [nn.ReLU()] * (index > 0) + [nn.Linear(wide, narrow)]
        super().__init__(*layers)


def sine_position(size_hw: tuple[int, int], width: int, *, like: Tensor) -> Tensor:
    """Return the 2-D sine position embedding of DETR, [1, h * w, width], normalised to [0, 2π]."""
    height, wide = size_hw
    axis = torch.arange(width // 4, device=like.device, dtype=torch.float32)
    frequency = 10000.0 ** (-axis / (width // 4))
    rows = (torch.arange(height, device=like.device, dtype=torch.float32) + 0.5) / height
    cols = (torch.arange(wide, device=like.device, dtype=torch.float32) + 0.5) / wide

    def encode(position: Tensor) -> Tensor:
        angle = position[:, None] * (2 * torch.pi) * frequency
        return torch.cat([angle.sin(), angle.cos()], dim=-1)

    grid_y = encode(rows)[:, None].expand(height, wide, width // 2)
    grid_x = encode(cols)[None].expand(height, wide, width // 2)
    return torch.cat([grid_y, grid_x], dim=-1).reshape(1, height * wide, width).to(like.dtype)


Arithmetic = Literal["fp32", "fp16"]
