"""Proxy queries: Kronecker kernels (Eq. 6), their aggregation (Eq. 7-8), and the proxy bank."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

BankFill = Literal["static", "ema", "calibrated"]


class ProxyQueries(nn.Module):
    """Basic kernel q^b shared by all steps and one diffusion kernel q_t^k for each of N steps.

    The proxy bank is the constant Q of inference, where no diffusion model runs. With
    `fill == "static"` it is Eq. 7-8 applied to the kernels themselves; training on diffusion
    features replaces it by a running mean or a calibrated mean of the denoised queries.

    sets: M; with more than one there are M basic kernels and M banks, and every shape below begins
    with [M, ...]. Diffusion kernels, W_Q and b_Q are shared.
    """

    bank: Tensor

    def __init__(
        self, basic: tuple[int, int], diffusion: tuple[int, int], steps: int, *, sets: int = 1
    ) -> None:
        super().__init__()
        width = basic[1] * diffusion[1]
        self.fill: BankFill = "static"
        kernel = torch.randn(*basic) * 0.5
        if sets > 1:
            # Near each other, so that their mean, the start of the gate, is as long as one of them; and
            # drawn aside, so that a seed gives all else the weights of a model with one set.
            with torch.random.fork_rng(devices=[]):
                kernel = kernel + torch.randn(sets, *basic) * 0.25
        self.basic_kernel = nn.Parameter(kernel)
        eye = torch.eye(*diffusion).expand(steps, *diffusion)
        self.diffusion_kernels = nn.Parameter(eye + 0.1 * torch.randn(steps, *diffusion))
        self.aggregate = nn.Linear((2 + steps) * width, width)
        self.register_buffer(
            "bank", torch.zeros(*kernel.shape[:-2], basic[0] * diffusion[0], width)
        )

    def stage_queries(self) -> Tensor:
        """Return q_t = q^b ⊗ q_t^k for every step, [N, n, c] (Eq. 6)."""
        basic = self.basic_kernel if self.basic_kernel.ndim == 3 else self.basic_kernel[None]
        sets = [
            torch.stack([torch.kron(one, kernel) for kernel in self.diffusion_kernels])
            for one in basic
        ]
        return torch.stack(sets) if self.basic_kernel.ndim == 3 else sets[0]

    def global_queries(self, stages: Tensor) -> Tensor:
        """Return Q [..., n, c] = Concat[Q_max, Q_avg, q_t1 .. q_tN] W_Q + b_Q (Eq. 7-8).

        stages: denoised queries [..., N, n, c], first step first.
        """
        parts = [stages.amax(-3), stages.mean(-3), *stages.unbind(-3)]
        return self.aggregate(torch.cat(parts, dim=-1))  # type: ignore[no-any-return]

    @torch.no_grad()
    def fill_bank(self, stages: Tensor, fill: BankFill) -> None:
        """Make Q of the denoised queries `stages` [N, n, c] the constant Q of inference."""
        self.bank.copy_(self.global_queries(stages.to(self.bank)))
        self.fill = fill

    def forward(self) -> Tensor:
        """Return the inference-time Q, [n, c]."""
        if self.fill == "static":
            return self.global_queries(self.stage_queries())
        return self.bank
