"""Stable Diffusion, frozen: latent code (Eq. 1), DDIM walk (Eq. 2), UNet features, decoding.

Letters: B batch, N denoising steps, L tapped layers of the noise predictor, c latent channels.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dedos_deploy.errors import BadInputError
from dedos_deploy.training.diffusion.files import DiffusionParts, read_parts

Taps = Literal["blocks", "up"]


@dataclass(frozen=True)
class DiffusionSettings:
    """Which diffusion model, and how an image walks through it."""

    model: str
    """Hub name or diffusers folder."""

    timesteps: tuple[int, ...] = (200, 100, 50)
    """The N of Eq. 7, in [1, T), kept in the order walked, high to low."""

    size_hw: tuple[int, int] | None = None
    """Image size it reads (None: what it was trained at)."""

    add_noise: bool = False
    """Start the walk from the forward process at the highest timestep, not from the clean latent
    as the paper does."""

    half: bool = False
    """Noise predictor in float16 on CUDA and in bfloat16 on a CPU."""

    random: bool = False
    """The noise predictor with random weights, always the same ones: a control."""

    taps: Taps = "blocks"
    """The L layers that proxy queries read: all `blocks` (down, mid, up: 9 in SD 2.1) or `up`
    alone."""

    def __post_init__(self) -> None:
        steps = tuple(self.timesteps)
        whole = all(type(step) is int and step >= 1 for step in steps)
        if not steps or not whole or len(set(steps)) != len(steps):
            raise BadInputError(
                f"timesteps {list(steps)} must be different whole numbers of at least 1, such as "
                "50 100 200"
            )
        if self.taps not in ("blocks", "up"):
            raise BadInputError(f"unknown taps {self.taps!r}; known are blocks and up")
        object.__setattr__(self, "timesteps", tuple(sorted(steps, reverse=True)))


@dataclass(frozen=True)
class Denoising:
    """One walk of a batch."""

    features: tuple[tuple[Tensor, ...], ...]
    """[N][L] maps [B, C_i, h_i, w_i], highest timestep first, in the dtype of the noise
    predictor."""

    latents: Tensor
    """float32 [B, c, h, w], the denoised code after the last step."""


class LatentDiffusion(nn.Module):
    """A frozen latent diffusion model: image in, features of its noise predictor out.

    Nothing here ever trains: parameters have no gradient, `train()` keeps it in eval mode, and all
    methods run without autograd, so that what they return is a constant in the graph of whoever
    reads it. A trainer keeps it outside the modules it optimises and saves.

    channels: C_i of the tapped layers; size_hw: image size it reads.

    Raises BadInputError for timesteps or a size that the model does not have.
    """

    empty_prompt: Tensor
    alphas: Tensor

    def __init__(self, settings: DiffusionSettings, parts: DiffusionParts) -> None:
        super().__init__()
        self.settings, self.vae, self.unet = settings, parts.vae, parts.unet
        self.prediction = parts.schedule.prediction
        self.register_buffer("alphas", parts.schedule.alphas, persistent=False)
        self.register_buffer("empty_prompt", parts.empty_prompt, persistent=False)
        self._check_timesteps()
        # As numbers: on a GPU every look into a tensor would wait for it.
        self._alpha: list[float] = parts.schedule.alphas.tolist()
        self._final_alpha = parts.schedule.final_alpha
        self.layers = tapped_layers(self.unet, settings.taps)
        self.channels = unet_channels(self.unet, settings.taps)
        self.size_hw = settings.size_hw or self._native_size()
        self._check_size()
        # One image after the other: the peak memory of the largest maps does not grow with B.
        self.vae.enable_slicing()  # type: ignore[operator]
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> LatentDiffusion:
        """Stay in eval mode: the model is frozen."""
        super().train(False)
        return self

    @property
    def steps(self) -> int:
        """N, the number of denoising steps."""
        return len(self.settings.timesteps)

    @property
    def device(self) -> torch.device:
        return self.alphas.device

    @property
    def reduction(self) -> int:
        """Image pixels per latent pixel along one side."""
        return int(2 ** (len(_config(self.vae)["block_out_channels"]) - 1))

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over all that decides features, latents and x_a: weights, configurations, settings.

        The same for a hub name and for a folder with its files.
        """
        return _fingerprint(self)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Return the latent code z_0, float32 [B, c, h, w], of uint8 BGR [B, H, W, 3] (Eq. 1).

        The mean of the encoder's posterior, shifted and scaled as the noise predictor expects;
        images of another size than `size_hw` are resized, averaged where they shrink.
        """
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[-1] != 3:
            raise BadInputError(
                f"images are {images.dtype} {list(images.shape)}; the diffusion reads uint8 BGR "
                "[B, H, W, 3]"
            )
        pixels = images.to(self.device).permute(0, 3, 1, 2).flip(1).float()
        if tuple(pixels.shape[2:]) != self.size_hw:
            pixels = F.interpolate(
                pixels, self.size_hw, mode="bilinear", align_corners=False, antialias=True
            )
        posterior = self.vae.encode(pixels / 127.5 - 1).latent_dist  # type: ignore[operator]
        scale, shift = self._code_range()
        code: Tensor = (posterior.mean.float() - shift) * scale
        return code

    @torch.no_grad()
    def denoise(self, latents: Tensor, *, seed: int = 0) -> Denoising:
        """Return the features and the denoised code of latents [B, c, h, w] (Eq. 2).

        DDIM without noise (eta 0) from each timestep to the next lower one, and from the lowest to
        the clean code. The latents are taken as z_t as they are, unless `add_noise`; image i then
        has the noise of `seed` + i, whatever it is walked together with.

        Raises BadInputError when half precision overflows.
        """
        times = self.settings.timesteps
        z = latents.float()
        if self.settings.add_noise:
            z = self._noised(z, times[0], seed)
        dtype = next(self.unet.parameters()).dtype
        prompt = self.empty_prompt.to(dtype).expand(len(z), -1, -1)
        features = []
        for time, after in zip(times, (*times[1:], None), strict=True):
            steps = torch.full((len(z),), time, device=z.device)
            with _tapped(self.layers) as outputs:
                found = self.unet(z.to(dtype), steps, encoder_hidden_states=prompt).sample
            features.append(tuple(outputs))
            z = self._step(z, found.float(), time, after)
        if dtype is not torch.float32 and not bool(z.isfinite().all()):
            raise BadInputError(
                f"{self.settings.model} overflows in {dtype}; use it in full precision"
            )
        return Denoising(tuple(features), z)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Return the image of a latent code [B, c, h, w], uint8 BGR [B, H, W, 3]."""
        scale, shift = self._code_range()
        code = latents.float() / scale + shift
        pixels: Tensor = self.vae.decode(code).sample.float()  # type: ignore[operator]
        levels = ((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        return levels.flip(1).permute(0, 2, 3, 1).contiguous()

    def _step(self, z: Tensor, found: Tensor, time: int, after: int | None) -> Tensor:
        """One DDIM step with eta 0 from timestep `time` to `after`, None being the clean code."""
        now = self._alpha[time]
        then = self._final_alpha if after is None else self._alpha[after]
        signal, noise = math.sqrt(now), math.sqrt(1 - now)
        if self.prediction == "epsilon":
            epsilon, clean = found, (z - noise * found) / signal
        elif self.prediction == "v_prediction":
            epsilon, clean = signal * found + noise * z, signal * z - noise * found
        else:
            epsilon, clean = (z - signal * found) / noise, found
        return math.sqrt(then) * clean + math.sqrt(1 - then) * epsilon

    def _noised(self, z: Tensor, time: int, seed: int) -> Tensor:
        # Drawn on the CPU, so that a seed means the same noise on every device.
        drawn = [
            torch.randn(z.shape[1:], generator=torch.Generator().manual_seed(seed + index))
            for index in range(len(z))
        ]
        noise = torch.stack(drawn).to(z.device)
        alpha = self._alpha[time]
        return math.sqrt(alpha) * z + math.sqrt(1 - alpha) * noise

    def _code_range(self) -> tuple[float, float]:
        """Return scaling and shift of latent codes; only newer models have a shift."""
        config = _config(self.vae)
        return float(config["scaling_factor"]), float(config.get("shift_factor") or 0.0)

    def _native_size(self) -> tuple[int, int]:
        side = _config(self.unet)["sample_size"]
        height, width = (side, side) if isinstance(side, int) else side
        return int(height) * self.reduction, int(width) * self.reduction

    def _check_timesteps(self) -> None:
        highest, count = self.settings.timesteps[0], len(self.alphas)
        if highest >= count:
            raise BadInputError(
                f"timestep {highest} is beyond the {count} steps of {self.settings.model}; the "
                f"largest allowed is {count - 1}"
            )
        if float(self.alphas[highest]) <= 0 and self.prediction == "epsilon":
            raise BadInputError(
                f"at timestep {highest} {self.settings.model} knows noise alone and predicts "
                "nothing but noise; take lower timesteps"
            )

    def _check_size(self) -> None:
        unit = self.reduction * 2 ** (len(_config(self.unet)["block_out_channels"]) - 1)
        if any(side < unit or side % unit for side in self.size_hw):
            near = [max(unit, round(side / unit) * unit) for side in self.size_hw]
            raise BadInputError(
                f"diffusion size {self.size_hw[0]}x{self.size_hw[1]} must be a multiple of {unit}; "
                f"the nearest is {near[0]}x{near[1]}"
            )


def load_diffusion(
    settings: DiffusionSettings, *, device: torch.device | str = "cpu"
) -> LatentDiffusion:
    """Return the frozen diffusion model that `settings` names.

    A folder needs `vae/`, `unet/` and `scheduler/` in diffusers' layout, and either `text_encoder/`
    with `tokenizer/` or `empty_prompt.safetensors`. With `half` the noise predictor is float16 on
    CUDA and bfloat16 on a CPU, which seldom computes in float16. The VAE is float32 always: known
    ones overflow float16 (black images), and bfloat16 cannot tell 256 levels apart.

    Raises BadInputError when the model cannot be had or is incomplete, MissingExtraError without
    diffusers.
    """
    device = torch.device(device)
    dtype = torch.float32
    if settings.half:
        dtype = torch.float16 if device.type == "cuda" else torch.bfloat16
    model = LatentDiffusion(settings, read_parts(settings.model, unet_dtype=dtype))
    if settings.random:
        _forget(model.unet)
    return model.to(device)


def _forget(module: nn.Module) -> None:
    """Draw all weights anew, the same ones each time, as the layers' own initialisation does."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for part in module.modules():
            reset = getattr(part, "reset_parameters", None)
            if reset is not None:
                reset()


def tapped_layers(unet: Any, taps: Taps = "blocks") -> tuple[nn.Module, ...]:
    """Return the tapped layers of a UNet2DConditionModel, in the order it runs."""
    if taps == "up":
        return tuple(unet.up_blocks)
    return (*unet.down_blocks, unet.mid_block, *unet.up_blocks)


def unet_channels(unet: Any, taps: Taps = "blocks") -> tuple[int, ...]:
    """Return C_i of the tapped layers of a UNet2DConditionModel."""
    widths = [int(width) for width in unet.config.block_out_channels]
    up = tuple(reversed(widths))
    return up if taps == "up" else (*widths, widths[-1], *up)


@contextmanager
def _tapped(layers: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """While open, collects the hidden states that each of `layers` returns, in order."""
    outputs: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
        # A down block returns its hidden states and those of its residual connections.
        outputs.append(output[0] if isinstance(output, tuple) else output)

    handles = [layer.register_forward_hook(keep) for layer in layers]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def _config(module: Any) -> dict[str, Any]:
    """Return a diffusers configuration without its notes, such as the version that wrote it."""
    return {name: value for name, value in module.config.items() if not name.startswith("_")}


def _fingerprint(model: LatentDiffusion) -> str:
    digest = hashlib.sha256()
    settings = {**asdict(model.settings), "model": None, "size_hw": model.size_hw}
    del settings["random"]  # Its weights tell.
    known = [settings, _config(model.vae), _config(model.unet), model.prediction]
    digest.update(json.dumps(known, sort_keys=True, default=str).encode())
    tensors = {
        f"{part}.{name}": value
        for part in ("vae", "unet")
        for name, value in getattr(model, part).state_dict().items()
    }
    schedule = {"alphas": model.alphas, "final": torch.tensor(model._final_alpha)}
    for name, value in sorted({**tensors, **schedule, "prompt": model.empty_prompt}.items()):
        digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        flat = value.detach().cpu().contiguous().view(-1).view(torch.uint8)
        digest.update(memoryview(flat.numpy()))
    return digest.hexdigest()
