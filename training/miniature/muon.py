"""Muon: momentum whose every matrix is made orthogonal before it is applied.

Method: K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024), with the
step size of Liu et al., "Muon is scalable for LLM training" (2025), arXiv 2502.16982. Written anew;
torch has it from version 2.9. Differences: matrices of one shape are orthogonalised in one batch,
and bfloat16 is an option, since on a CPU it costs a third of a small step otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

_STEPS = 5
_CURVE = (3.4445, -4.7750, 2.0315)
"""Jordan's quintic: five steps bring singular values above 0.002 into about [0.7, 1.2]."""


class Muon(torch.optim.Optimizer):
    """Orthogonalised momentum for hidden matrices [out, in]; AdamW should have all else.

    lr: a step changes entries by 0.2 lr in the root mean square, about as AdamW's steps do;
    momentum: of the running mean, used in Nesterov's form; half: bfloat16 products.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], *, lr: float, momentum: float = 0.85,
        half: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(parameters, {"lr": lr, "momentum": momentum})
        self._half = half

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient."""
        for group in self.param_groups:
            alike: dict[tuple[int, ...], list[nn.Parameter]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    alike.setdefault(tuple(parameter.shape), []).append(parameter)
            for shape, members in alike.items():
                sums = [self._momentum(parameter, group["momentum"]) for parameter in members]
                moves = orthogonal(torch.stack(sums), half=self._half)
                rate = -group["lr"] * 0.2 * max(shape) ** 0.5
                for parameter, move in zip(members, moves, strict=True):
                    parameter.add_(move, alpha=rate)

    def _momentum(self, parameter: nn.Parameter, factor: float) -> Tensor:
        gradient = parameter.grad
        assert gradient is not None
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        total: Tensor = state["momentum"]
        total.lerp_(gradient, 1 - factor)
        return gradient.lerp(total, factor)


def orthogonal(matrices: Tensor, *, half: bool = False) -> Tensor:
    """Return the nearest matrices of orthonormal rows (or columns) to [N, out, in], roughly.

    Newton-Schulz iteration: directions stay, singular values go to about one.
    """
    a, b, c = _CURVE
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.transpose(-1, -2) if tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    x = x.bfloat16() if half else x
    for _ in range(_STEPS):
        square = x @ x.transpose(-1, -2)
        x = a * x + (b * square + c * square @ square) @ x
    x = x.to(matrices.dtype)
    out: Tensor = x.transpose(-1, -2) if tall else x
    return out
