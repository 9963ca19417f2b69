"""Where a picture's proxy queries come from on its way through the trunk, without a diffusion.

| `query_source` | Q of a picture | learned for it |
|---|---|---|
| `bank` | the proxy bank, one constant | - |
| `mixed` | Σ_m g_m Q_m of M banks, g by the picture's CLS (`QueryGate`) | M (C + 1), and M kernels q^b |
| `clip` | the bank after reading the picture's CLIP tokens (`ClipReader`) | 2 c C + 2 c² + c |

One object of this file serves one forward pass: it refines the tokens of every refined block (Eq.
13-14) and knows the queries afterwards. The decoder asks with those of the last refined block.
"""

from __future__ import annotations

from torch import Tensor, nn

from dedos_deploy.model.blocks import softmax
from dedos_deploy.model.query_reader import ClipReader
from dedos_deploy.model.refinement import (
    AnyRefinement,
    FoldedSets,
    Refinement,
    SplitRefinement,
    normed,
)


class QueryGate(nn.Module):
    """g = softmax(LN(CLS) Wᵀ + b) over M sets of proxy queries; W and b start at 0: all sets alike."""

    def __init__(self, width: int, sets: int) -> None:
        super().__init__()
        self.logits = nn.Linear(width, sets)
        nn.init.zeros_(self.logits.weight)
        nn.init.zeros_(self.logits.bias)

    def forward(self, cls: Tensor) -> Tensor:
        """Return g [B, M], rows of sum 1, of a block's CLS token [B, C]."""
        return softmax(self.logits(normed(cls)))

    def mixed(self, weights: Tensor, sets: Tensor) -> Tensor:
        """Return Q of every picture, [B, n, c], by the decoder's weights g [B, M]; see `mix`."""
        return mix(weights, sets)


class FrozenGate(QueryGate):
    """The gate beside the M constant banks of the decoder as one matrix, which half graphs halve."""

    def __init__(self, gate: QueryGate, sets: Tensor) -> None:
        super().__init__(gate.logits.in_features, gate.logits.out_features)
        self.logits = gate.logits
        self.shape = sets.shape[1:]
        self.sets = nn.Linear(len(sets), self.shape.numel(), bias=False)
        self.sets.weight.data = sets.flatten(1).t().contiguous()

    def mixed(self, weights: Tensor, sets: Tensor) -> Tensor:
        rows: Tensor = self.sets(weights)
        return rows.reshape(-1, *self.shape)


def mix(weights: Tensor, sets: Tensor) -> Tensor:
    """Return Σ_m g_m Q_m, [B, n, c]: weights g [B, M], sets Q_m [M, n, c] or of every picture [B, M, n, c]."""
    mixed = weights.to(sets.dtype)[:, None] @ sets.flatten(-2)
    return mixed.reshape(len(weights), *sets.shape[-2:])


class BankQueries:
    """`bank`: one Q, or one of every picture, for all blocks and the decoder."""

    weights: Tensor | None = None
    read: tuple[Tensor, ...] = ()

    def __init__(self, refinement: AnyRefinement, proxy: Tensor) -> None:
        self.refinement, self.proxy = refinement, proxy
        self.q_hat = refinement.q_hat(proxy) if isinstance(refinement, Refinement) else None

    def tokens(self, x: Tensor, q_hat: Tensor | None) -> Tensor:
        """Return a block's tokens [B, 1 + N, C] with the patches refined."""
        return self.refinement.tokens(x, q_hat)

    def queries(self) -> Tensor:
        """Return the decoder's Q, [n, c] or [B, n, c]."""
        return self.proxy


class MixedQueries(BankQueries):
    """`mixed`: at every refined block g is that of the block's own CLS token, and Q̂ = Σ_m g_m MLP(Q_m).

    proxy: M sets [M, n, c], or M of every picture [B, M, n, c].
    """

    def __init__(self, gate: QueryGate, refinement: AnyRefinement, proxy: Tensor) -> None:
        super().__init__(refinement, proxy)
        self.gate = gate

    def tokens(self, x: Tensor, q_hat: Tensor | None) -> Tensor:
        self.weights = self.gate(x[:, 0])
        if isinstance(self.refinement, FoldedSets):
            return self.refinement.tokens(x, self.weights)
        assert q_hat is not None
        return self.refinement.tokens(x, mix(self.weights, q_hat))

    def queries(self) -> Tensor:
        assert self.weights is not None
        return self.gate.mixed(self.weights, self.proxy)


class ReadQueries(BankQueries):
    """`clip`: Q_l of `ClipReader` for block l, and the last one for the decoder.

    proxy: the bank [n, c], from which reading starts, or the pictures' own denoised Q [B, n, c], which
    is used as it is. With `start`, a bank, the reader then reads beside it, for a loss that teaches it:
    from constants, so that this loss reaches the reader alone.
    """

    def __init__(
        self, reader: ClipReader, refinement: AnyRefinement, proxy: Tensor, start: Tensor | None
    ) -> None:
        assert isinstance(refinement, Refinement | SplitRefinement)
        self.own = proxy.ndim == 3
        super().__init__(refinement, proxy)
        self.reader, self.project = reader, refinement.q_hat
        self.last = proxy if start is None else start.detach()
        self.reads = not self.own or start is not None

    def tokens(self, x: Tensor, q_hat: Tensor | None) -> Tensor:
        if self.reads:
            seen = x[:, 1:].detach() if self.own else x[:, 1:]
            self.last = self.reader(self.last.expand(len(x), -1, -1), seen)
            self.read = (*self.read, self.last)
        return self.refinement.tokens(x, q_hat if self.own else self.project(self.last))

    def queries(self) -> Tensor:
        return self.proxy if self.own else self.last
