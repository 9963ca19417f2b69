"""benchmarks/dense_heads.py trains a last layer by its CLS token alone."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from dedos_deploy.model.blocks import TransformerBlock

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import dense_heads as benchmark  # noqa: E402


def test_the_cls_token_alone_is_that_of_the_whole_block() -> None:
    torch.manual_seed(0)
    block = TransformerBlock(24, 3, "gelu")
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x = torch.randn(2, 7, 24, requires_grad=True)
    whole = torch.autograd.grad(block(x)[:, 0].square().sum(), (x, *block.parameters()))
    alone = torch.autograd.grad(
        benchmark.cls_token(block, x).square().sum(), (x, *block.parameters())
    )
    torch.testing.assert_close(benchmark.cls_token(block, x), block(x)[:, 0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(alone, whole, rtol=1e-4, atol=1e-4)
