"""A start for the nano autoencoder: it averages squares of pixels and spreads the averages again.

Note [Linear start]. From random weights the first thousand steps of an autoencoder on a CPU teach
it grey blurs. So three latent channels begin as the mean colour of each square, and the decoder as
a smooth enlargement of them: about 25 dB before the first step, colours included. All else starts
at random, and residual branches at zero, so nothing is lost that training could have found.
How a network of GroupNorm and SiLU is linear: a value c travels as the pair c and -c, for which
silu(c) - silu(-c) = c; a pair of large constants in the same group makes the deviation by which
GroupNorm divides nearly the same for every picture.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

COLOURS = 3
LARGE = 2.0
"""Of the constants, against colours in [-1, 1]; larger ones leave less to the other channels."""

_MEAN = ((1.0, 1.0, 0.0), (1.0, 1.0, 0.0), (0.0, 0.0, 0.0))
_TENT = ((1.0, 2.0, 1.0), (2.0, 4.0, 2.0), (1.0, 2.0, 1.0))


@torch.no_grad()
def start_linear(vae: AutoencoderKL, groups: int) -> None:
    """Set the weights of a fresh `vae` as Note [Linear start] says.

    groups: of its group norms; each must have at least four channels, and there must be three.
    """
    from diffusers.models.resnet import ResnetBlock2D

    for module in vae.modules():
        if isinstance(module, ResnetBlock2D):
            nn.init.zeros_(module.conv2.weight)
            nn.init.zeros_(module.conv2.bias)
            if module.conv_shortcut is not None:
                _carry(module.conv_shortcut, groups)
    encoder, decoder = vae.encoder, vae.decoder
    _carry(encoder.conv_in, groups)
    for block in encoder.down_blocks:
        if block.downsamplers:
            _carry(block.downsamplers[0].conv, groups, _MEAN)
    _end(encoder.mid_block.resnets[-1], encoder.conv_norm_out, encoder.conv_out, groups)
    for conv in (vae.quant_conv, vae.post_quant_conv):
        conv.weight[:COLOURS], conv.bias[:COLOURS] = 0.0, 0.0
        for colour in range(COLOURS):
            conv.weight[colour, colour] = 1.0
    _carry(decoder.conv_in, groups)
    for block in decoder.up_blocks:
        if block.upsamplers:
            _carry(block.upsamplers[0].conv, groups, _TENT)
    _end(decoder.up_blocks[-1].resnets[-1], decoder.conv_norm_out, decoder.conv_out, groups)


def _pair(colour: int, channels: int, groups: int) -> tuple[int, int]:
    """Return the channels of a colour and of its negative: the first two of a group of their own."""
    first = colour * (channels // groups)
    return first, first + 1


def _carry(
    conv: nn.Conv2d, groups: int, kernel: tuple[tuple[float, ...], ...] | None = None
) -> None:
    """Let `conv` pass the colours on, blurred by `kernel` (None: as they are).

    What comes from a picture or from latents is three plain channels, all else is pairs.
    """
    weight = conv.weight
    wanted = _centre(weight.shape[-1]) if kernel is None else torch.tensor(kernel)
    plain = conv.in_channels < COLOURS * groups
    for colour in range(COLOURS):
        source = colour if plain else _pair(colour, conv.in_channels, groups)[0]
        for sign, target in zip((1.0, -1.0), _pair(colour, conv.out_channels, groups), strict=True):
            weight[target], conv.bias[target] = 0.0, 0.0  # type: ignore[index]
            weight[target, source] = sign * wanted / wanted.sum()


def _end(last: nn.Module, norm: nn.GroupNorm, conv: nn.Conv2d, groups: int) -> None:
    """Let norm, SiLU and `conv` turn the pairs back into three plain channels."""
    size = norm.num_channels // groups
    conv.weight[:COLOURS], conv.bias[:COLOURS] = 0.0, 0.0  # type: ignore[index]
    middle = conv.weight.shape[-1] // 2
    for colour in range(COLOURS):
        plus, minus = _pair(colour, norm.num_channels, groups)
        bias: Tensor = last.conv2.bias  # type: ignore[union-attr,assignment]
        bias[plus + 2], bias[minus + 2] = LARGE, -LARGE
        # The deviation of a group of two constants and little else.
        norm.weight[[plus, minus]] = LARGE * (2 / size) ** 0.5
        conv.weight[colour, plus, middle, middle] = 1.0
        conv.weight[colour, minus, middle, middle] = -1.0


def _centre(side: int) -> Tensor:
    kernel = torch.zeros(side, side)
    kernel[side // 2, side // 2] = 1.0
    return kernel
