"""What quantizing one layer does to the scores: all layers from one pass of activations.

Note [Damage]
A site s is a Linear or convolution y = W x + b. With smoothing factors f (1 without), the int8 graph
computes y + δ_s there, where

    δ_s = Q(W f) Q(x / f) - W x = (Q(W f) - W f) (x / f)  +  Q(W f) (Q(x / f) - x / f)
                                  weight part                activation part

exactly. To first order the scores S move by J_s δ_s, with J_s = ∂S/∂y_s, when only s is quantized.
Its damage is the energy of that move beside the energy of the scores, over all frames:

    damage_s = Σ_frames ‖J_s δ_s‖² / Σ_frames ‖S‖²
    ‖J_s δ_s‖² = E_v [(vᵀ J_s δ_s)²] = E_v [⟨J_sᵀ v, δ_s⟩²],  v of independent ±1

since E[v vᵀ] = I: Hutchinson's estimator (M. F. Hutchinson, "A stochastic estimator of the trace of
the influence matrix", 1990) of the trace of J_s δ_s δ_sᵀ J_sᵀ. One backward pass per probe v gives
J_sᵀ v at every site at once. HAWQ-V2 (Dong et al., 2020) ranks layers by tr(H) ‖Q(W) - W‖² with the
same estimator; here the error itself, activations included, goes through the Jacobian instead of a
trace that knows nothing of its direction, so no loss and no labels are needed.

What the first order does not see: the thresholds of masked attention (`mask_bias`, which is also cut
off by detach) are steps, so a mask that flips counts nothing; scores clipped at 1 count nothing as
they would not move; errors that are large beside the curvature of softmax come out too large. The
damage of a site run several times (the refinement) is that of all its runs together.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from dedos_deploy.calib.int8_error import Factors, QuantizedLayer, quantized_layers
from dedos_deploy.errors import BadInputError, nearest
from dedos_deploy.progress import QUIET, Progress

PROBES = 4

Frames = Sequence[NDArray[np.uint8]] | NDArray[np.uint8]
Inputs = tuple[Tensor, Tensor, Tensor]
"""image uint8 [1, H, W, 3], text [K, D], valid [K]"""


@dataclass(frozen=True)
class SiteSensitivity:
    """Damage of quantizing one site alone, see Note [Damage]."""

    site: str
    damage: float
    """Damage of quantizing weights and activations, as a part of the scores' energy."""

    weight: float
    """Damage if only the weights were quantized."""

    activation: float
    """Damage if only the activations were quantized. `weight` and this may help or hinder each
    other, so they need not add up to `damage`."""


@dataclass(frozen=True)
class Sensitivity:
    """Damage of every site, in the order in which the sites were given.

    Each figure has a relative standard error of at most about sqrt(2 / (frames * probes)).
    """

    sites: tuple[SiteSensitivity, ...]
    together: float
    """Damage of quantizing all sites at once, to first order; the sum of the sites' damage assumes
    that their errors do not add up, and this tells how far that holds."""

    signal: float
    """Mean square of the scores, so that sqrt(damage * signal) is the root mean square change of a
    score."""

    frames: int
    probes: int
    seed: int
    """What the probes were drawn from."""

    def __post_init__(self) -> None:
        if len({item.site for item in self.sites}) != len(self.sites):
            raise BadInputError("a sensitivity names a site twice; measure it again")

    @property
    def total(self) -> float:
        """The sum of all sites' damage."""
        return math.fsum(item.damage for item in self.sites)

    def damage(self, site: str) -> float:
        for item in self.sites:
            if item.site == site:
                return item.damage
        names = [item.site for item in self.sites]
        raise BadInputError(f"no sensitivity was measured for {site!r}{nearest(site, names)}")


def measure_sensitivity(
    frozen: nn.Module,
    images: Frames,
    text: NDArray[np.float32],
    valid: NDArray[np.float32],
    *,
    sites: Sequence[str],
    amax: Mapping[str, float],
    smoothing: Mapping[str, Factors] | None = None,
    probes: int = PROBES,
    seed: int = 0,
    progress: Progress = QUIET,
) -> Sensitivity:
    """Return the damage of quantizing each site alone; see Note [Damage].

    frozen: FrozenDedos in FP32, or any module of the same inputs, in eval mode; images: uint8
    [F, H, W, 3] BGR of the network's size, taken one by one; text: [K, D] unit rows; valid: [K];
    sites: dotted paths of Linear and Conv2d modules inside `frozen.model`, a module that runs several
    times being one site however often it is named; amax: largest magnitude
    of each site's input, divided by its smoothing factors where it has some; smoothing: positive
    factors per input channel of a Linear; probes: backward passes per frame; progress: counts frames. The result depends on the frames and the seed, not on the order of the frames.

    Costs, per frame, the forward pass, two more products per site, and a backward pass per probe;
    the memory of one training step of batch 1 without weight gradients, plus as much again as the
    sites' outputs take.

    Raises BadInputError for no frames or probes, a site that is unknown, not a Linear or Conv2d,
    without a usable range, not run, or without a differentiable path to the scores.
    """
    if len(images) == 0 or probes < 1 or not sites:
        raise BadInputError(
            f"sensitivity needs at least one frame, one probe and one site, got {len(images)}, "
            f"{probes} and {len(sites)}"
        )
    recorder = _Recorder(quantized_layers(frozen, sites, amax, smoothing or {}))
    samples: list[_Samples] = []
    progress.note("sensitivity")
    with _parameters_held(frozen), recorder.attached():
        for index, image in enumerate(images):
            progress.count(index + 1, len(images), "frame")
            inputs = _inputs(image, text, valid)
            samples.append(_measure_frame(frozen, recorder, inputs, probes, seed))
    recorder.check_reached()
    return _summary([layer.site for layer in recorder.layers], samples, probes, seed)


@dataclass(frozen=True, eq=False)
class _Samples:
    """What the probes saw on one frame."""

    moves: NDArray[np.float64]
    """⟨J_sᵀ v, part of δ_s⟩, float64 [probes, sites, 2 parts]."""

    energy: float
    """Sum of squared scores over the `elements` scores of valid slots."""

    elements: int


@dataclass(frozen=True, eq=False)
class _Kept:
    """An error kept until the gradient comes: values * scale.

    float32 is kept as float16 beside its largest magnitude, which halves what a frame holds and rounds
    to 11 bits; float64 stays as it is.
    """

    values: Tensor
    scale: float

    @classmethod
    def of(cls, error: Tensor) -> _Kept:
        if error.dtype != torch.float32:
            return cls(error, 1.0)
        scale = float(error.abs().max()) or 1.0
        return cls((error / scale).half(), scale)

    def dot(self, gradient: Tensor) -> float:
        values = self.values.reshape(-1).to(torch.promote_types(self.values.dtype, torch.float32))
        return self.scale * float(gradient.reshape(-1).to(values.dtype) @ values)


class _Recorder:
    """Hooks that compute each site's error in the forward pass and meet its gradient backwards."""

    def __init__(self, layers: Sequence[QuantizedLayer]) -> None:
        self.layers = layers
        self.moves = np.zeros((len(layers), 2))
        self.roots: list[Tensor] = []
        self.handles: list[RemovableHandle] = []
        self.ran: set[str] = set()
        self.reached: set[str] = set()

    @contextmanager
    def attached(self) -> Iterator[None]:
        with ExitStack() as hooks:
            for index, layer in enumerate(self.layers):
                handle = layer.module.register_forward_hook(partial(self._forward, index))
                hooks.callback(handle.remove)
            yield

    def _forward(self, index: int, module: nn.Module, inputs: tuple[Tensor], out: Tensor) -> None:
        self.ran.add(self.layers[index].site)
        with torch.no_grad():
            parts = [_Kept.of(part) for part in self.layers[index].error(inputs[0])]
        if not out.requires_grad:
            # All weights are constants: gradients start at the first sites, and only there.
            self.roots.append(out.requires_grad_())
        handle = out.register_hook(  # type: ignore[no-untyped-call]
            partial(self._backward, index, parts)
        )
        self.handles.append(handle)

    def _backward(self, index: int, parts: Sequence[_Kept], gradient: Tensor) -> None:
        self.reached.add(self.layers[index].site)
        for column, part in enumerate(parts):
            self.moves[index, column] += part.dot(gradient)

    def scores(self, frozen: nn.Module, inputs: Inputs) -> Tensor:
        """Return the scores with a graph that leads to the sites."""
        with torch.enable_grad():
            scores: Tensor = frozen(*inputs)
        if not scores.requires_grad:
            raise BadInputError("none of the sites leads to the scores; choose others")
        return scores

    def backward(self, scores: Tensor, probe: Tensor) -> NDArray[np.float64]:
        """Return ⟨J_sᵀ v, part of δ_s⟩ [sites, 2] for the probe v."""
        self.moves[:] = 0
        torch.autograd.grad(scores, self.roots, probe, retain_graph=True, allow_unused=True)
        return np.array(self.moves)

    def forget(self) -> None:
        """Let go of the gradient graph and the errors of a frame: together a gigabyte at 448x448."""
        for handle in self.handles:
            handle.remove()
        self.handles.clear()
        self.roots.clear()

    def check_reached(self) -> None:
        for layer in self.layers:
            if layer.site in self.reached:
                continue
            ran = layer.site in self.ran
            why = "has no differentiable path to the scores" if ran else "is not run by the model"
            raise BadInputError(f"site {layer.site!r} {why}; leave it out of the sites")


def _measure_frame(
    frozen: nn.Module, recorder: _Recorder, inputs: Inputs, probes: int, seed: int
) -> _Samples:
    scores = recorder.scores(frozen, inputs)
    used = inputs[2].to(scores.dtype)[:, None, None].expand_as(scores)
    moves = [
        recorder.backward(scores, used * probe)
        for probe in _probes(scores, inputs[0], probes, seed)
    ]
    energy = float((scores.detach().double().square() * used).sum())
    recorder.forget()
    return _Samples(np.stack(moves), energy, int(used.sum()))


def _probes(scores: Tensor, image: Tensor, probes: int, seed: int) -> Iterator[Tensor]:
    """Yield independent ±1 vectors like `scores`, drawn from the seed and the frame itself.

    Not from the frame's place in the sequence: the order of the frames must not matter.
    """
    digest = hashlib.sha256(image.numpy().tobytes()).digest()
    rng = np.random.default_rng([seed, int.from_bytes(digest[:16], "little")])
    for _ in range(probes):
        signs = 2 * rng.integers(0, 2, scores.shape, dtype=np.int8) - 1
        yield torch.from_numpy(signs).to(scores.dtype)


def _summary(
    sites: Sequence[str], samples: Sequence[_Samples], probes: int, seed: int
) -> Sensitivity:
    energy = math.fsum(sample.energy for sample in samples)
    elements = sum(sample.elements for sample in samples)
    if not energy > 0 or not math.isfinite(energy):
        raise BadInputError(
            f"the scores have energy {energy}, so no damage can be told; give frames and words that "
            f"the model answers"
        )

    def damage(moves: NDArray[np.float64]) -> float:
        # Summed exactly, so that the order of the frames cannot even change the rounding.
        return math.fsum((moves**2).tolist()) / probes / energy

    moves = np.concatenate([sample.moves for sample in samples])  # [frames * probes, sites, 2]
    found = tuple(
        SiteSensitivity(
            site, damage(moves[:, i].sum(-1)), damage(moves[:, i, 0]), damage(moves[:, i, 1])
        )
        for i, site in enumerate(sites)
    )
    together = damage(moves.sum((1, 2)))
    return Sensitivity(found, together, energy / elements, len(samples), probes, seed)


def _inputs(
    image: NDArray[np.uint8], text: NDArray[np.float32], valid: NDArray[np.float32]
) -> Inputs:
    frame = torch.from_numpy(np.ascontiguousarray(image))[None]
    return frame, torch.from_numpy(text), torch.from_numpy(valid)


@contextmanager
def _parameters_held(module: nn.Module) -> Iterator[None]:
    """Make all parameters constants for a while: gradients to weights would cost memory."""
    learning = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)
