"""From a histogram of magnitudes to a range: which |x| an INT8 tensor still tells apart.

Quantization is symmetric: x ≈ s·clip(round(x/s), -127, 127) with s = amax/127 (QuantizeLinear also
has -128, which is not counted on). A small amax gives small steps and clips what is larger; the
estimators weigh the two differently. Every one of them is a function of the histogram alone, so the
order of frames cannot matter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.calib.histogram import MagnitudeHistogram, bin_edges
from dedos_deploy.calib.options import Estimator, check_estimator
from dedos_deploy.errors import BadInputError

LEVELS = 127
"""Largest INT8 level: -128 is left out, so that the range is symmetric."""

_ENTROPY_BINS = 2048
_ENTROPY_LEVELS = 128
_MSE_OCTAVES = 8
_MSE_PER_OCTAVE = 32

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class RangeOptions:
    """How ranges are estimated.

    Raises BadInputError naming the value that is not allowed.
    """

    estimator: Estimator = "mse"
    """`mse` (default) minimises the expected squared error; `max` never clips, and suits tensors
    without outliers; `percentile` clips a fixed part of the values; `entropy` is what TensorRT's
    calibrator did, made for convolutional networks."""

    percentile: float = 99.99
    """Part of the values, in percent, that `percentile` does not clip, in (0, 100]."""

    def __post_init__(self) -> None:
        check_estimator(self.estimator)
        if not 0.0 < self.percentile <= 100.0:
            raise BadInputError(f"percentile must lie in (0, 100], not {self.percentile}")

    @property
    def parameters(self) -> dict[str, float]:
        """The numbers the estimator depends on, by name."""
        return {"percentile": self.percentile} if self.estimator == "percentile" else {}


def tensor_ranges(
    histograms: Mapping[str, MagnitudeHistogram], options: RangeOptions
) -> dict[str, float]:
    """Return amax per tensor, in the units of the tensor.

    0 for a tensor that was zero on every frame: it has no scale, leave it unquantized.
    Raises BadInputError naming a tensor of which nothing was counted.
    """
    estimators: dict[Estimator, Callable[[MagnitudeHistogram], float]] = {
        "max": amax_of_max,
        "percentile": lambda histogram: amax_of_percentile(histogram, options.percentile),
        "entropy": amax_of_entropy,
        "mse": amax_of_mse,
    }
    for name, histogram in histograms.items():
        if histogram.total == 0:
            raise BadInputError(f"nothing was counted of tensor {name!r}; it has no values")
    return {name: estimators[options.estimator](each) for name, each in histograms.items()}


def amax_of_max(histogram: MagnitudeHistogram) -> float:
    """Return max |x|, exact."""
    return histogram.max


def amax_of_percentile(histogram: MagnitudeHistogram, percentile: float) -> float:
    """Return the |x| that `percentile` percent of the values do not exceed.

    Linear inside a bin, so within 1/128 of the value that sorting everything would give.
    """
    edges = bin_edges()
    reached = np.cumsum(histogram.counts)
    wanted = percentile / 100.0 * histogram.total
    index = int(np.searchsorted(reached, wanted))
    inside = 1.0 - (reached[index] - wanted) / histogram.counts[index]
    value = edges[index] + inside * (edges[index + 1] - edges[index])
    return min(float(value), histogram.max)


def amax_of_mse(histogram: MagnitudeHistogram) -> float:
    """Return the amax with the smallest expected squared error of quantization.

    argmin over a of E[(|x| - q_a(|x|))²], with |x| uniform inside each bin, and a on a grid of 32
    steps per octave below max |x|, 8 octaves deep. Of equals it is the largest.
    """
    if histogram.max == 0.0:
        return 0.0
    steps = np.arange(_MSE_OCTAVES * _MSE_PER_OCTAVE)
    candidates = histogram.max * 2.0 ** (-steps / _MSE_PER_OCTAVE)
    errors = [expected_squared_error(histogram, float(amax)) for amax in candidates]
    return float(candidates[int(np.argmin(errors))])


def expected_squared_error(histogram: MagnitudeHistogram, amax: float) -> float:
    """Return E[(|x| - q(|x|))²] of INT8 with range `amax` > 0, |x| uniform inside each bin.

    With s = amax/127, n = round(t/s) and u = t/s - n, the squared rounding error up to t
    integrates to F(t) = s³·(n/12 + u³/3); beyond amax the error is x - amax.
    """
    edges, occupied = bin_edges(), np.flatnonzero(histogram.counts)
    low, high = edges[occupied], edges[occupied + 1]
    inside = _rounding_error(np.minimum(high, amax), amax) - _rounding_error(
        np.minimum(low, amax), amax
    )
    clipped = np.maximum(high - amax, 0.0) ** 3 - np.maximum(low - amax, 0.0) ** 3
    each = (inside + clipped / 3.0) / (high - low)
    return float(each @ histogram.counts[occupied]) / histogram.total


def _rounding_error(values: Floats, amax: float) -> Floats:
    step = amax / LEVELS
    scaled = values / step
    level = np.rint(scaled)
    return np.asarray(step**3 * (level / 12.0 + (scaled - level) ** 3 / 3.0), np.float64)


def amax_of_entropy(histogram: MagnitudeHistogram) -> float:
    """Return the amax whose INT8 histogram has the smallest Kullback-Leibler divergence.

    S. Migacz, "8-bit inference with TensorRT", GTC 2017: 2048 equal bins P over [0, max |x|]; for
    every i from 128 on, P cut at i with the outliers added to its last bin, against Q, the same
    cut merged into 128 levels and spread again over the bins that were not empty.

    Differences: the equal bins are drawn from the logarithmic ones, whose content is taken as
    uniform; zeros count as much as the bin beside them, as in NVIDIA's pytorch-quantization, since
    a ReLU would outweigh everything else.
    """
    if histogram.max == 0.0:
        return 0.0
    bins = _equal_bins(histogram)
    bins[0] = bins[1]
    cuts = range(_ENTROPY_LEVELS, _ENTROPY_BINS + 1)
    divergences = [_divergence(bins, cut) for cut in cuts]
    # The last of equals: it clips least.
    best = len(cuts) - 1 - int(np.argmin(divergences[::-1]))
    return histogram.max * cuts[best] / _ENTROPY_BINS


def _equal_bins(histogram: MagnitudeHistogram) -> Floats:
    """Return the content of 2048 equal bins over [0, max], float64."""
    reached = np.concatenate(([0], np.cumsum(histogram.counts))).astype(np.float64)
    edges = np.linspace(0.0, histogram.max, _ENTROPY_BINS + 1)
    below = np.interp(edges, bin_edges(), reached)
    below[-1] = reached[-1]
    return np.diff(below)


def _divergence(bins: Floats, cut: int) -> float:
    """Return KL(P || Q) of the first `cut` bins, infinite where Q lacks what P has."""
    kept = bins[:cut]
    expected = kept.copy()
    expected[-1] += bins[cut:].sum()
    starts = np.ceil(np.arange(_ENTROPY_LEVELS) * cut / _ENTROPY_LEVELS).astype(np.intp)
    filled = (kept > 0).astype(np.float64)
    sums, sizes = np.add.reduceat(kept, starts), np.add.reduceat(filled, starts)
    means = np.divide(sums, sizes, out=np.zeros_like(sums), where=sizes > 0)
    got = filled * np.repeat(means, np.diff(np.append(starts, cut)))
    present = expected > 0
    if not got[present].all():
        return float("inf")
    p, q = expected[present] / expected.sum(), got[present] / got.sum()
    return float(np.sum(p * np.log(p / q)))
