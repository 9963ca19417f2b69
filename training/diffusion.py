"""Stable Diffusion, frozen: latent code (Eq. 1), DDIM walk (Eq. 2), UNet features, decoding.

Letters: B batch, N denoising steps, L tapped layers of the noise predictor, c latent channels.
"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from dedos_deploy.errors import BadInputError, require

_LOG = logging.getLogger(__name__)

EMPTY_PROMPT = "empty_prompt.safetensors"
"""Embedding of the empty prompt, tensor `embedding` [1, tokens, width], in place of a text encoder."""

PARTS = ("vae", "unet", "scheduler")


@dataclass(frozen=True)
class DiffusionSettings:
    """Which diffusion model, and how an image walks through it.

    model: hub name or diffusers folder; timesteps: the N of Eq. 7, kept in the order walked, high to
    low; size_hw: image size it reads (None: what it was trained at); add_noise: start the walk from
    the forward process at the highest timestep, not from the clean latent as the paper does;
    half: weights and arithmetic of the UNet and of the encoder in half precision.
    """

    model: str
    timesteps: tuple[int, ...] = (200, 100, 50)
    size_hw: tuple[int, int] | None = None
    add_noise: bool = False
    half: bool = False

    def __post_init__(self) -> None:
        steps = tuple(sorted(self.timesteps, reverse=True))
        object.__setattr__(self, "timesteps", steps)
        if not steps or len(set(steps)) != len(steps) or steps[-1] < 1:
            raise BadInputError(
                f"timesteps {list(self.timesteps)} must be different whole numbers of at least 1, "
                "such as 50 100 200"
            )


@dataclass(frozen=True)
class Denoising:
    """One walk of a batch.

    features: [N][L] maps [B, C_i, h_i, w_i], highest timestep first; latents: [B, c, h, w], the
    denoised code after the last step.
    """

    features: tuple[tuple[Tensor, ...], ...]
    latents: Tensor


class LatentDiffusion(nn.Module):
    """A frozen latent diffusion model: image in, features of its noise predictor out.

    Nothing here ever trains: parameters have no gradient, `train()` keeps it in eval mode, and all
    methods run without autograd. A trainer keeps it outside the modules it optimises and saves.
    """

    empty_prompt: Tensor
    alphas: Tensor

    def __init__(
        self,
        settings: DiffusionSettings,
        vae: nn.Module,
        unet: nn.Module,
        scheduler: dict[str, Any],
        alphas: Tensor,
        empty_prompt: Tensor,
    ) -> None:
        super().__init__()
        self.settings, self.vae, self.unet = settings, vae, unet
        self.prediction: str = scheduler.get("prediction_type", "epsilon")
        self.final_alpha = 1.0 if scheduler.get("set_alpha_to_one", True) else float(alphas[0])
        self.register_buffer("alphas", alphas.double(), persistent=False)
        self.register_buffer("empty_prompt", empty_prompt, persistent=False)
        self._check_timesteps()
        self.layers: tuple[nn.Module, ...] = (*unet.down_blocks, unet.mid_block, *unet.up_blocks)  # type: ignore[arg-type,misc]
        self.channels = unet_channels(unet)
        self.size_hw = settings.size_hw or self._native_size()
        self._check_size()
        self.fingerprint = self._fingerprint(scheduler)
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> LatentDiffusion:
        """Stay in eval mode: the model is frozen."""
        super().train(False)
        return self

    @property
    def steps(self) -> int:
        """N, the number of denoising steps."""
        return len(self.settings.timesteps)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Return the latent code z_0 [B, c, h, w] of uint8 BGR [B, H, W, 3] (Eq. 1).

        The mean of the encoder's posterior, shifted and scaled as the noise predictor expects.
        """
        pixels = images.to(self.alphas.device).permute(0, 3, 1, 2).flip(1).float()
        if tuple(pixels.shape[2:]) != self.size_hw:
            pixels = F.interpolate(
                pixels, self.size_hw, mode="bilinear", align_corners=False, antialias=True
            )
        moments = self.vae.encode((pixels / 127.5 - 1).to(self._dtype(self.vae))).latent_dist  # type: ignore[operator]
        shift = self.vae.config.get("shift_factor") or 0.0  # type: ignore[union-attr,operator]
        code: Tensor = (moments.mean.float() - shift) * self.vae.config.scaling_factor  # type: ignore[union-attr]
        return code

    @torch.no_grad()
    def denoise(self, latents: Tensor, *, seed: int = 0) -> Denoising:
        """Return the features and the denoised code of latents [B, c, h, w] (Eq. 2).

        DDIM without noise from each timestep to the next lower one, and from the lowest to the clean
        code. The latents are taken as z_t as they are, unless `add_noise`; `seed` then decides it.
        """
        times = self.settings.timesteps
        z = latents.float()
        if self.settings.add_noise:
            z = self._noised(z, times[0], seed)
        dtype = self._dtype(self.unet)
        prompt = self.empty_prompt.to(dtype).expand(len(z), -1, -1)
        features = []
        for index, time in enumerate(times):
            with _tapped(self.layers) as outputs:
                steps = torch.full((len(z),), time, device=z.device)
                found = self.unet(z.to(dtype), steps, encoder_hidden_states=prompt).sample.float()
            features.append(tuple(outputs))
            after = times[index + 1] if index + 1 < len(times) else None
            z = self._step(z, found, time, after)
        return Denoising(tuple(features), z)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Return the image of a latent code, uint8 BGR [B, H, W, 3]."""
        shift = self.vae.config.get("shift_factor") or 0.0  # type: ignore[union-attr,operator]
        code = latents.float() / self.vae.config.scaling_factor + shift  # type: ignore[union-attr]
        pixels = self.vae.decode(code.to(self._dtype(self.vae))).sample.float()  # type: ignore[operator]
        levels = ((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        return levels.flip(1).permute(0, 2, 3, 1).contiguous()

    def _step(self, z: Tensor, found: Tensor, time: int, after: int | None) -> Tensor:
        """One DDIM step with eta 0 from timestep `time` to `after`, None being the clean code."""
        now = float(self.alphas[time])
        then = self.final_alpha if after is None else float(self.alphas[after])
        signal, noise = now**0.5, (1 - now) ** 0.5
        if self.prediction == "epsilon":
            epsilon, clean = found, (z - noise * found) / signal
        elif self.prediction == "v_prediction":
            epsilon, clean = signal * found + noise * z, signal * z - noise * found
        else:
            epsilon, clean = (z - signal * found) / noise, found
        return then**0.5 * clean + (1 - then) ** 0.5 * epsilon

    def _noised(self, z: Tensor, time: int, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(z.shape, generator=generator).to(z.device)
        alpha = float(self.alphas[time])
        return alpha**0.5 * z + (1 - alpha) ** 0.5 * noise

    def _dtype(self, module: nn.Module) -> torch.dtype:
        return next(module.parameters()).dtype

    def _check_timesteps(self) -> None:
        if self.settings.timesteps[0] >= len(self.alphas):
            raise BadInputError(
                f"timestep {self.settings.timesteps[0]} is beyond the {len(self.alphas)} steps of "
                f"{self.settings.model}; the largest allowed is {len(self.alphas) - 1}"
            )
        if self.prediction not in ("epsilon", "v_prediction", "sample"):
            raise BadInputError(
                f"{self.settings.model} predicts {self.prediction!r}; known are epsilon, "
                "v_prediction and sample"
            )

    @property
    def reduction(self) -> int:
        """Image pixels per latent pixel along one side."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))  # type: ignore[union-attr,arg-type]

    def _native_size(self) -> tuple[int, int]:
        side = self.unet.config.sample_size  # type: ignore[union-attr]
        height, width = (side, side) if isinstance(side, int) else side  # type: ignore[misc]
        return int(height) * self.reduction, int(width) * self.reduction

    def _check_size(self) -> None:
        unit = self.reduction * 2 ** (len(self.unet.config.block_out_channels) - 1)  # type: ignore[union-attr,arg-type]
        if any(side < unit or side % unit for side in self.size_hw):
            near = [max(unit, round(side / unit) * unit) for side in self.size_hw]
            raise BadInputError(
                f"diffusion size {self.size_hw[0]}x{self.size_hw[1]} must be a multiple of {unit}; "
                f"the nearest is {near[0]}x{near[1]}"
            )

    def _fingerprint(self, scheduler: dict[str, Any]) -> str:
        """sha256 over everything that decides latents and x_a."""
        digest = hashlib.sha256()
        settings = {**asdict(self.settings), "model": None, "size_hw": self.size_hw}
        configs = [dict(self.vae.config), dict(self.unet.config), scheduler]  # type: ignore[arg-type]
        public = [{k: v for k, v in config.items() if not k.startswith("_")} for config in configs]
        digest.update(json.dumps([settings, public], sort_keys=True, default=str).encode())
        for module in (self.vae, self.unet):
            for name, value in sorted(module.state_dict().items()):
                digest.update(name.encode())
                digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy())
        digest.update(self.empty_prompt.detach().cpu().float().numpy())
        return digest.hexdigest()


class _tapped:
    """While open, collects the hidden states that each of `layers` returns, in order."""

    def __init__(self, layers: tuple[nn.Module, ...]) -> None:
        self._layers = layers

    def __enter__(self) -> list[Tensor]:
        outputs: list[Tensor] = []

        def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
            # A down block returns its hidden states and those of its residual connections.
            outputs.append(output[0] if isinstance(output, tuple) else output)

        self._handles = [layer.register_forward_hook(keep) for layer in self._layers]
        return outputs

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()


def unet_channels(unet: Any) -> tuple[int, ...]:
    """Return C_i of the down, mid and up blocks of a UNet2DConditionModel."""
    widths = [int(width) for width in unet.config.block_out_channels]
    return (*widths, widths[-1], *reversed(widths))


def load_diffusion(
    settings: DiffusionSettings, *, device: torch.device | str = "cpu"
) -> LatentDiffusion:
    """Return the frozen diffusion model that `settings` names.

    A folder needs `vae/`, `unet/` and `scheduler/` in diffusers' layout, and either `text_encoder/`
    with `tokenizer/` or `empty_prompt.safetensors`. With `half`, weights are float16 on CUDA and
    bfloat16 on a CPU; the VAE stays in float32 on CUDA, since Stable Diffusion's overflows float16.

    Raises BadInputError when the model cannot be had or is incomplete, MissingExtraError without
    diffusers.
    """
    diffusers = require("diffusers", extra="train", purpose="reading a diffusion model")
    source = _check_source(settings.model)
    device = torch.device(device)
    dtype = torch.float32
    if settings.half:
        dtype = torch.float16 if device.type == "cuda" else torch.bfloat16
    try:
        vae = diffusers.AutoencoderKL.from_pretrained(source, subfolder="vae")
        unet = diffusers.UNet2DConditionModel.from_pretrained(
            source, subfolder="unet", torch_dtype=dtype
        )
        scheduler = diffusers.DDIMScheduler.from_pretrained(source, subfolder="scheduler")
        prompt = _empty_prompt(source)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        first = str(error).strip().splitlines()[0]
        raise BadInputError(
            f"cannot read the diffusion model {settings.model!r} ({first}); give a hub name such "
            "as stabilityai/stable-diffusion-2-1 with a connection, or a folder downloaded by "
            "`huggingface-cli download NAME --local-dir FOLDER`"
        ) from error
    if settings.half and device.type != "cuda":
        vae = vae.to(dtype)
    model = LatentDiffusion(
        settings, vae, unet, dict(scheduler.config), scheduler.alphas_cumprod, prompt
    )
    return model.to(device)


def _check_source(model: str) -> str:
    folder = Path(model).expanduser()
    if not folder.is_dir():
        if folder.is_absolute() or model.startswith((".", "~")) or model.count("/") != 1:
            raise BadInputError(
                f"there is no diffusion folder {model!r}; give a folder in diffusers' layout or a "
                "hub name such as stabilityai/stable-diffusion-2-1"
            )
        return model
    for part in PARTS:
        if not (folder / part).is_dir():
            raise BadInputError(
                f"diffusion folder {folder} has no {part}/; it needs {', '.join(PARTS)} in "
                "diffusers' layout"
            )
    if not (folder / EMPTY_PROMPT).is_file() and not (folder / "text_encoder").is_dir():
        raise BadInputError(
            f"diffusion folder {folder} has neither text_encoder/ nor {EMPTY_PROMPT}; the noise "
            "predictor needs the embedding of the empty prompt"
        )
    return str(folder)


def _empty_prompt(source: str) -> Tensor:
    """Return the embedding of the empty prompt, [1, tokens, width]; the text encoder is let go."""
    cached = Path(source) / EMPTY_PROMPT
    if cached.is_file():
        return load_file(cached)["embedding"]
    transformers = require("transformers", extra="train", purpose="the empty prompt's embedding")
    tokenizer = transformers.CLIPTokenizer.from_pretrained(source, subfolder="tokenizer")
    encoder = transformers.CLIPTextModel.from_pretrained(source, subfolder="text_encoder").eval()
    tokens = tokenizer("", padding="max_length", max_length=tokenizer.model_max_length,
                       return_tensors="pt")  # fmt: skip
    with torch.no_grad():
        embedding: Tensor = encoder(tokens.input_ids)[0]
    return embedding.float()
