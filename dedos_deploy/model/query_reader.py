"""Queries that read tokens of a feature map: one layer of Eq. 3-5, and CLIP's own tokens in their place."""

from __future__ import annotations

from torch import Tensor, nn

from dedos_deploy.model.refinement import normed

QUERY_START = 4.0
"""Kronecker kernels start with entries of rms 1/4, so this gain gives attention logits near 1."""

VALUE_START = 0.02
"""rms of what one layer adds to queries of rms 1/4 at the start: the residual dominates."""


class QueryReader(nn.Module):
    """q' = q + softmax(q W_Q (f W_K)ᵀ / √c) f W_V; returns q' + q' Dᵀ + d, with D and d 0 at the start.

    channels: C of the tokens; query_width: c; gated: has a mask map of its own (Eq. 4).
    """

    def __init__(self, channels: int, query_width: int, *, gated: bool = False) -> None:
        super().__init__()
        self.query = nn.Linear(query_width, query_width, bias=False)
        self.key = nn.Linear(channels, query_width, bias=False)
        self.value = nn.Linear(channels, query_width, bias=False)
        self.gate = nn.Linear(channels, 1) if gated else None
        self.move = nn.Linear(query_width, query_width)
        nn.init.normal_(self.query.weight, std=QUERY_START * query_width**-0.5)
        nn.init.normal_(self.key.weight, std=channels**-0.5)
        nn.init.normal_(self.value.weight, std=VALUE_START * channels**-0.5)
        nn.init.zeros_(self.move.weight)
        nn.init.zeros_(self.move.bias)

    def read(self, queries: Tensor, tokens: Tensor, mask: tuple[Tensor, Tensor] | None) -> Tensor:
        """Return queries moved by what they read, float32 as `queries`, [..., n, c].

        tokens: normalised, [..., P, C]; mask: M and log M of Eq. 4, float32 [..., 1, P], or None.
        """
        dtype = self.query.weight.dtype
        # (Q W_Kᵀ) fᵀ and (A f) W_V instead of Q (f W_K)ᵀ and A (f W_V): there are fewer queries
        # than positions, so the keys and values of every position are never formed.
        asked = (self.query(queries.to(dtype)) * queries.shape[-1] ** -0.5) @ self.key.weight
        logits = (asked @ tokens.transpose(-1, -2)).float()
        weights = logits.softmax(-1) if mask is None else (logits + mask[1]).softmax(-1) * mask[0]
        change: Tensor = self.value(weights.to(tokens.dtype) @ tokens)
        mixed = queries + change.float()
        moved: Tensor = self.move(mixed.to(dtype))
        return mixed + moved.float()


class ClipReader(QueryReader):
    """A picture's own queries from CLIP alone: one `QueryReader` that all refined blocks share.

    After refined block l, before Eq. 13: Q_l = read(Q_{l-1}, LN(f_l)) with Q_0 the proxy bank and f_l
    the block's patch tokens. Training may teach every Q_l to equal the denoised Q (training/
    distillation.py); inference reads no diffusion.
    """

    def forward(self, queries: Tensor, features: Tensor) -> Tensor:
        """Return Q_l, float32 [B, n, c], of Q_{l-1} [B, n, c] and patch tokens [B, P, C]."""
        return self.read(queries.float(), normed(features), None)
