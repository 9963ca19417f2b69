"""The error that int8 makes at the output of one layer, split exactly into two parts.

Symmetric, as QuantizeLinear without a zero point has it: a step per output channel for weights, one
step for activations, rounding to even, saturation at [-128, 127].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from dedos_deploy.errors import BadInputError, nearest
from dedos_deploy.model.freeze import FrozenDedos

INT8_MAX = 127

Factors = NDArray[np.float32] | NDArray[np.float64]


def quantized(x: Tensor, step: Tensor) -> Tensor:
    """Return x rounded to int8 multiples of `step`, which broadcasts to x."""
    return (x / step).round().clamp(-INT8_MAX - 1, INT8_MAX) * step


def weight_step(weight: Tensor) -> Tensor:
    """Return the step of each output channel, axis 0 of `weight`, 1 where all its weights are 0."""
    amax = weight.flatten(1).abs().amax(1).reshape(-1, *[1] * (weight.dim() - 1))
    return torch.where(amax > 0, amax / INT8_MAX, torch.ones_like(amax))


@dataclass(frozen=True, eq=False)
class QuantizedLayer:
    """A layer and how its int8 form is made."""

    site: str
    module: nn.Linear | nn.Conv2d
    amax: float
    """Largest magnitude of x / factors."""

    factors: Tensor | None
    """One per input channel, None without smoothing."""

    def error(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weight part and the activation part of Q(W f) Q(x / f) - W x.

        They are (Q(W f) - W f)(x / f) and Q(W f)(Q(x / f) - x / f), shaped like the layer's output,
        in the dtype of x, float32 at least. Nothing is kept: weights are quantized again each time,
        which costs little beside the product and no memory.
        """
        x = x.float() if x.dtype == torch.float16 else x
        weight = self.module.weight.detach().to(x.dtype)
        if self.factors is not None:
            factors = self.factors.to(x.dtype)
            x, weight = x / factors, weight * factors
        rounded = quantized(weight, weight_step(weight))
        step = torch.tensor(self.amax / INT8_MAX, dtype=x.dtype)
        return self._product(x, rounded - weight), self._product(quantized(x, step) - x, rounded)

    def _product(self, x: Tensor, weight: Tensor) -> Tensor:
        layer = self.module
        if isinstance(layer, nn.Linear):
            return F.linear(x, weight)
        return F.conv2d(x, weight, None, layer.stride, layer.padding, layer.dilation, layer.groups)


def quantized_layers(
    frozen: nn.Module,
    sites: Sequence[str],
    amax: Mapping[str, float],
    smoothing: Mapping[str, Factors],
) -> tuple[QuantizedLayer, ...]:
    """Return the layers at `sites`; raises BadInputError for the first that cannot be quantized."""
    modules = site_modules(frozen, sites)
    for site in smoothing:
        if site not in modules:
            raise BadInputError(f"smoothing of {site!r}, which is not among the sites")
    return tuple(
        QuantizedLayer(site, module, _range(site, amax), _factors(site, module, smoothing))
        for site, module in modules.items()
    )


def site_modules(frozen: nn.Module, sites: Sequence[str]) -> dict[str, nn.Linear | nn.Conv2d]:
    """Return the module of each site, in order; a site named several times comes once.

    Raises BadInputError for a site that is unknown, or not a Linear or Conv2d.
    """
    known = dict((frozen.model if isinstance(frozen, FrozenDedos) else frozen).named_modules())
    found: dict[str, nn.Linear | nn.Conv2d] = {}
    for site in dict.fromkeys(sites):
        module = known.get(site)
        if module is None:
            raise BadInputError(f"the model has no module {site!r}{nearest(site, known)}")
        if not isinstance(module, nn.Linear | nn.Conv2d) or _pads_otherwise(module):
            raise BadInputError(
                f"site {site!r} is a {type(module).__name__}; a Linear or a zero-padded Conv2d is "
                f"needed"
            )
        found[site] = module
    return found


def _pads_otherwise(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and module.padding_mode != "zeros"


def _range(site: str, amax: Mapping[str, float]) -> float:
    if site not in amax:
        raise BadInputError(f"there is no range for site {site!r}; calibrate it, too")
    value = float(amax[site])
    if not (isfinite(value) and value > 0):
        raise BadInputError(
            f"the range of site {site!r} is {value}, a positive number is needed; calibrate again, "
            f"or leave the site out"
        )
    return value


def _factors(
    site: str, module: nn.Linear | nn.Conv2d, smoothing: Mapping[str, Factors]
) -> Tensor | None:
    if site not in smoothing:
        return None
    factors = torch.from_numpy(np.asarray(smoothing[site]))
    if not isinstance(module, nn.Linear) or factors.shape != (module.in_features,):
        raise BadInputError(
            f"smoothing of site {site!r} has shape {tuple(factors.shape)}; one factor per input "
            f"channel of a Linear is needed"
        )
    if not bool((torch.isfinite(factors) & (factors > 0)).all()):
        raise BadInputError(f"smoothing of site {site!r} has a factor that is not positive")
    return factors
