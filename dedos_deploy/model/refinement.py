"""Feature refinement, Eq. 13-14 of the paper: proxy queries sharpen CLIP's patch features."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dedos_deploy.model.blocks import softmax


def normed(features: Tensor) -> Tensor:
    """Return features [..., C] after LayerNorm without learned scale, in float32 inside half graphs."""
    return F.layer_norm(features.float(), features.shape[-1:]).to(features.dtype)


class _Refining(nn.Module):
    """What refines the patch tokens of a block, and leaves its CLS token alone."""

    def tokens(self, x: Tensor, q_hat: Tensor | None) -> Tensor:
        """Return a block's tokens [B, 1 + N, C] with the patches refined; q_hat: as `forward`."""
        return torch.cat([x[:, :1], self(x[:, 1:], q_hat)], dim=1)


class Refinement(_Refining):
    """S = softmax(LN(f) Q̂ᵀ / √C); f̂ = P^F([S Q̂, f])  (Eq. 13, 14), one P^F for all blocks.

    norm=False gives the literal Eq. 13, softmax(f Q̂ᵀ): raw CLIP activations reach hundreds, so its
    softmax saturates and float16 overflows; the default normalises first and scales by 1/√C.
    P^F starts as [0 | I], which is plain CLIP.
    """

    def __init__(self, query_width: int, width: int, *, norm: bool) -> None:
        super().__init__()
        self.norm = norm
        self.mlp = nn.Sequential(
            nn.Linear(query_width, query_width), nn.GELU(), nn.Linear(query_width, width)
        )
        self.fuse = nn.Linear(2 * width, width)
        with torch.no_grad():
            self.fuse.weight.copy_(torch.cat([torch.zeros(width, width), torch.eye(width)], dim=1))
            self.fuse.bias.zero_()

    def q_hat(self, proxy: Tensor) -> Tensor:
        """Return Q̂ = MLP(Q), [..., n, C], for Q [..., n, c]."""
        return self.mlp(proxy)  # type: ignore[no-any-return]

    def scale(self, width: int) -> float:
        return float(width**-0.5) if self.norm else 1.0

    def forward(self, features: Tensor, q_hat: Tensor | None) -> Tensor:
        """Return refined features [B, N, C] for features [B, N, C] and Q̂ [n, C] or [B, n, C]."""
        assert q_hat is not None
        q_hat = q_hat.to(features.dtype)
        keys = (q_hat * self.scale(features.shape[-1])).transpose(-1, -2)
        query = normed(features) if self.norm else features
        mixed = softmax(query @ keys) @ q_hat
        return self.fuse(torch.cat([mixed, features], dim=-1))  # type: ignore[no-any-return]

    def folded(self, q_hat: Tensor) -> FoldedRefinement:
        """Return the same function with Q̂ [n, C] constant: S (Q̂ W_a) + f W_b + b, in float64."""
        width = q_hat.shape[-1]
        weight = self.fuse.weight.detach().double()
        q = q_hat.detach().double()
        keys = (q * self.scale(width)).t().float().contiguous()
        values = (q @ weight[:, :width].t()).float()
        return FoldedRefinement(
            keys, values, weight[:, width:].float(), self.fuse.bias.detach(), self.norm
        )

    def folded_sets(self, q_hat: Tensor) -> FoldedSets:
        """Return the same function of weights g [B, M] with M sets Q̂_m [M, n, C] constant, in float64.

        Q̂ = Σ g_m Q̂_m enters keys and values linearly: keys Σ g_m (Q̂_mᵀ / √C), values Σ g_m (Q̂_m W_a).
        """
        width = q_hat.shape[-1]
        weight = self.fuse.weight.detach().double()
        q = q_hat.detach().double()
        keys = (q * self.scale(width)).transpose(-1, -2).float()
        values = (q @ weight[:, :width].t()).float()
        return FoldedSets(
            keys, values, weight[:, width:].float(), self.fuse.bias.detach(), self.norm
        )

    def split(self) -> SplitRefinement:
        """Return the same function with Q̂ W_a formed for n queries, not S Q̂ W_a for N positions."""
        return SplitRefinement(self)


class FoldedRefinement(_Refining):
    """Refinement for constant proxy queries; see `Refinement.folded`."""

    def __init__(
        self, keys: Tensor, values: Tensor, weight: Tensor, bias: Tensor, norm: bool
    ) -> None:
        super().__init__()
        self.norm = norm
        n, width = values.shape
        self.similarity = nn.Linear(width, n, bias=False)
        self.mix = nn.Linear(n, width, bias=False)
        self.keep = nn.Linear(width, width)
        self.similarity.weight.data = keys.t().contiguous()
        self.mix.weight.data = values.t().contiguous()
        self.keep.weight.data, self.keep.bias.data = weight.contiguous(), bias.clone()

    def forward(self, features: Tensor, q_hat: Tensor | None) -> Tensor:
        assert q_hat is None
        query = normed(features) if self.norm else features
        mixed = self.mix(softmax(self.similarity(query)))
        return mixed + self.keep(features)  # type: ignore[no-any-return]


class FoldedSets(_Refining):
    """Refinement for M constant sets of proxy queries; see `Refinement.folded_sets`."""

    def __init__(
        self, keys: Tensor, values: Tensor, weight: Tensor, bias: Tensor, norm: bool
    ) -> None:
        super().__init__()
        self.norm = norm
        sets, self.count, width = values.shape
        self.keys = nn.Linear(sets, self.count * width, bias=False)
        self.values = nn.Linear(sets, self.count * width, bias=False)
        self.keep = nn.Linear(width, width)
        self.keys.weight.data = keys.flatten(1).t().contiguous()
        self.values.weight.data = values.flatten(1).t().contiguous()
        self.keep.weight.data, self.keep.bias.data = weight.contiguous(), bias.clone()

    def forward(self, features: Tensor, weights: Tensor) -> Tensor:
        """Return refined features [B, N, C] for features [B, N, C] and weights g [B, M]."""
        batch, width = features.shape[0], features.shape[-1]
        keys = self.keys(weights).reshape(batch, width, self.count)
        values = self.values(weights).reshape(batch, self.count, width)
        query = normed(features) if self.norm else features
        mixed: Tensor = softmax(query @ keys) @ values
        return mixed + self.keep(features)  # type: ignore[no-any-return]


class SplitRefinement(_Refining):
    """Refinement for queries that differ between pictures; see `Refinement.split`."""

    def __init__(self, source: Refinement) -> None:
        super().__init__()
        width = source.fuse.out_features
        self.norm, self.mlp, self.scale = source.norm, source.mlp, source.scale(width)
        self.take = nn.Linear(width, width, bias=False)
        self.keep = nn.Linear(width, width)
        weight = source.fuse.weight.detach()
        self.take.weight.data = weight[:, :width].contiguous()
        self.keep.weight.data = weight[:, width:].contiguous()
        self.keep.bias.data = source.fuse.bias.detach().clone()

    def q_hat(self, proxy: Tensor) -> Tensor:
        """Return Q̂ = MLP(Q), [..., n, C], for Q [..., n, c]."""
        return self.mlp(proxy.to(self.take.weight.dtype))  # type: ignore[no-any-return]

    def forward(self, features: Tensor, q_hat: Tensor | None) -> Tensor:
        """Return refined features [B, N, C] for features [B, N, C] and Q̂ [B, n, C]."""
        assert q_hat is not None
        query = normed(features) if self.norm else features
        mixed: Tensor = softmax(query @ (q_hat * self.scale).transpose(-1, -2)) @ self.take(q_hat)
        return mixed + self.keep(features)  # type: ignore[no-any-return]


AnyRefinement = Refinement | FoldedRefinement | FoldedSets | SplitRefinement
