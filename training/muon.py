"""AdamW with orthogonal steps for the matrices of a trunk that starts from nothing.

Under AdamW a small ViT trained on thousands rather than millions of pictures ends with nearly all of
its tokens in one direction (effective rank 1.3 of 192, measured): the first directions that lower
the loss take every step. Muon (Jordan et al., 2024) replaces a matrix's step by the nearest
orthogonal one, which moves all directions alike; on the same crops it reached in 100 steps what
AdamW needs some 300 for. Ported maths: momentum, Nesterov's look ahead, five Newton-Schulz steps with
the published coefficients; the scale that makes a step as large as AdamW's is Moonlight's (2025).
Difference: a fused q, k, v projection is three matrices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, overload

import torch
from torch import Tensor, nn

from dedos_deploy.borders import Refusal

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_STEPS = 5
_RMS = 0.2
"""Root mean square of AdamW's steps, in learning rates."""


class MuonAdamW(torch.optim.AdamW):
    """AdamW, with orthogonal steps for groups that have `muon=True`: matrices and convolutions.

    Such a group takes `lr`, `weight_decay` and, as momentum, the first of `betas`. Its state has
    `step` and `exp_avg`, names that AdamW uses, too, so that it is saved in the same way.

    half: products in bfloat16. Where those are fast, small steps are a third shorter. fused: AdamW's
    steps in one kernel, faster and rounded otherwise.
    """

    def __init__(
        self, groups: list[dict[str, Any]], *, half: bool = False, fused: bool = True
    ) -> None:
        every = [{"muon": False, **group} for group in groups]
        super().__init__(every, fused=fused or None)
        self._half = half

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Take one step with every group."""
        groups = self.param_groups
        try:
            self.param_groups = [group for group in groups if not group["muon"]]
            loss: float | None = super().step(closure)
        finally:
            self.param_groups = groups
        for group in groups:
            if group["muon"]:
                self._orthogonal_steps(group)
        return loss

    def moments(self, parameters: Iterable[tuple[str, nn.Parameter]]) -> dict[str, Tensor]:
        """Return the state of named parameters as `load_moments` takes it."""
        return {
            f"{name}/{key}": value
            for name, parameter in parameters
            for key, value in self.state.get(parameter, {}).items()
        }

    def load_moments(
        self,
        parameters: Iterable[tuple[str, nn.Parameter]],
        moments: Mapping[str, Tensor],
        refusal: Refusal,
    ) -> None:
        """Take over the state of named parameters from a file, or raise what `refusal` makes.

        moments: `NAME/step`, `NAME/exp_avg` and, for AdamW's steps, `NAME/exp_avg_sq`; all or none,
        as a parameter has none before its first gradient.
        """
        muon = {p for group in self.param_groups if group["muon"] for p in group["params"]}
        for name, parameter in parameters:
            shapes = {"step": torch.Size(), "exp_avg": parameter.shape}
            if parameter not in muon:
                shapes["exp_avg_sq"] = parameter.shape
            mine = {key: moments[f"{name}/{key}"] for key in shapes if f"{name}/{key}" in moments}
            if not mine:
                continue
            found = {key: value.shape for key, value in mine.items() if value.is_floating_point()}
            if found != shapes:
                raise refusal(f"the moments of {name} are not those of its optimizer")
            self.state[parameter] = {key: _laid_out_as(parameter, v) for key, v in mine.items()}

    @torch.no_grad()
    def _orthogonal_steps(self, group: dict[str, Any]) -> None:
        momentum = group["betas"][0]
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            state = self.state[parameter]
            if not state:
                state["step"] = torch.zeros(())
                state["exp_avg"] = torch.zeros_like(parameter)
            state["step"] += 1
            mean = state["exp_avg"].lerp_(parameter.grad, 1 - momentum)
            ahead = parameter.grad.lerp(mean, momentum)
            if not group["lr"]:
                continue  # A frozen trunk has a rate of 0, and its steps would be most of the work.
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            for rows, piece in zip(_pieces(parameter), _pieces(ahead), strict=True):
                matrix = piece.flatten(1)  # a convolution is a matrix of its flattened kernels
                scale = _RMS * max(matrix.shape) ** 0.5
                move = orthogonal(matrix, half=self._half).reshape(rows.shape)
                rows.add_(move, alpha=-group["lr"] * scale)


def _laid_out_as(parameter: Tensor, moment: Tensor) -> Tensor:
    """The fused optimizer walks weights and moments in memory order, whatever their strides say."""
    if moment.ndim == 0:
        return moment.to(parameter.device)
    return torch.empty_like(parameter, requires_grad=False).copy_(moment)


def _pieces(matrix: Tensor) -> tuple[Tensor, ...]:
    """Return the matrix, or query, key and value rows of a fused projection."""
    fused = matrix.ndim == 2 and matrix.shape[0] == 3 * matrix.shape[1]
    return matrix.chunk(3) if fused else (matrix,)


def orthogonal(matrix: Tensor, *, half: bool = False) -> Tensor:
    """Return nearly U Vᵀ of a matrix U S Vᵀ, float32: singular values between 0.7 and 1.2.

    Values below a thousandth of the largest stay smaller. half: products in bfloat16.
    """
    tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.T if tall else matrix).float()
    x = x / x.norm().clamp(min=1e-12)
    x = x.bfloat16() if half else x
    a, b, c = _COEFFICIENTS
    for _ in range(_STEPS):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    result: Tensor = (x.T if tall else x).float()
    return result
