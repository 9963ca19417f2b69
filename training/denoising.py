"""Denoising learning: what training adds to the model, and nothing that is ever exported."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F

from dedos_deploy.borders import foreign
from dedos_deploy.config_json import config_from_dict
from dedos_deploy.errors import BadInputError, shown
from dedos_deploy.fields import FieldError, checked, load_json
from dedos_deploy.files import write_atomically
from dedos_deploy.model import Dedos
from dedos_deploy.model.blocks import fused_attention
from dedos_deploy.model.dedos import decoder_taps
from dedos_deploy.model.tensor_files import load_strictly, read_tensors
from dedos_deploy.presets import ModelConfig
from dedos_deploy.training.proxy_reader import MaskMap, ProxyReader
from dedos_deploy.training.texture import TextureSeparation

FORMAT = "dedos-learning-1"

LiveFill = Literal["static", "ema"]
"""The fillings of the bank that exist while training."""


@dataclass(frozen=True)
class Learned:
    """What one batch gives the trainer."""

    stages: Tensor
    """Q_{L,t}, float32 [B, N, n, c], highest t first; [B, M, N, n, c] of M sets."""
    queries: Tensor
    """Q of Eq. 7-8, [B, n, c]; [B, M, n, c] of M sets."""
    consistency: Tensor | None
    """L_consist of every image, float32 [B], None without separation."""


class DenoisingLearning(nn.Module):
    """The reader of Eq. 3-5, the separation of Eq. 9-12 and the running mean of q_{L,t}.

    config: of the model that it teaches; channels: of the tapped diffusion layers; steps: N;
    separation: whether L_consist is computed; ema: decay of the running mean.

    Raises BadInputError when `steps` is not the number of the model's diffusion kernels.
    """

    stage_mean: Tensor
    count: Tensor

    def __init__(
        self,
        config: ModelConfig,
        channels: Sequence[int],
        *,
        steps: int,
        mask_map: MaskMap = "gate",
        separation: bool = True,
        ema: float = 0.999,
    ) -> None:
        super().__init__()
        if steps != config.steps:
            raise BadInputError(
                f"{steps} timesteps were given, but {config.preset} has {config.steps} diffusion "
                f"kernels; give {config.steps} timesteps"
            )
        self.config, self.ema = config, ema
        self.reader = ProxyReader(channels, config.query_width, mask_map=mask_map)
        self.texture = (
            TextureSeparation(
                config.clip.width, config.query_width, decoder_taps(config.clip.layers)
            )
            if separation
            else None
        )
        sets = (config.query_sets,) if config.query_sets > 1 else ()
        shape = (*sets, steps, config.queries, config.query_width)
        self.register_buffer("stage_mean", torch.zeros(shape))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def forward(
        self,
        model: Dedos,
        features: Sequence[Sequence[Tensor]],
        x_b: Tensor | None = None,
        x_a: Tensor | None = None,
    ) -> Learned:
        """Return the denoised queries of a batch and how well they ignore texture.

        features: [N][L], each [B, C_i, h_i, w_i]; x_b, x_a: the images before and after denoising,
        uint8 BGR [B, H, W, 3] of any size, both or neither.
        """
        stages = self.read(model, features)
        queries = model.proxy_queries.global_queries(stages)
        if self.texture is None or x_b is None or x_a is None:
            return Learned(stages, queries, None)
        before, after, grid_hw = clip_pair(model, x_b, x_a, self.texture.layers)
        # Positions relate through the queries of all sets together.
        asked = queries.flatten(1, -2)
        return Learned(stages, queries, self.texture(asked, before, after, grid_hw))

    def read(self, model: Dedos, features: Sequence[Sequence[Tensor]]) -> Tensor:
        """Return q_{L,t}, float32 [B, N, n, c], or [B, M, N, n, c] of a model with M sets.

        A query reads alone, whatever else is asked, so sets are further rows of one reading.
        """
        queries = model.proxy_queries.stage_queries()
        if queries.ndim == 3:
            return self.reader(queries, features)  # type: ignore[no-any-return]
        sets, _, count, _ = queries.shape
        rows = self.reader(queries.transpose(0, 1).flatten(1, 2), features)
        stages: Tensor = rows.unflatten(2, (sets, count)).transpose(1, 2)
        return stages

    @torch.no_grad()
    def update_mean(self, stages: Tensor, shares: Tensor | None = None) -> None:
        """Take the mean over images of q_{L,t}, [..., N, n, c], into the running mean.

        shares: of M sets, [M], the mean over images of the weights g; `stages` [M, N, n, c] is then the
        mean weighted by g, and a set that few images asked with moves as much less. The first update
        sets all of them: what is there before is no mean of anything.

        Several processes must hand in one and the same mean. Early means are forgotten faster than
        `ema` says: update number u keeps at most u / (u + 9), since kernels move most at first.
        """
        sides, batch_mean = self.stage_mean.ndim, stages.float()
        if stages.ndim > sides:
            batch_mean = batch_mean.flatten(0, -1 - sides).mean(0)
        updates = int(self.count)
        rate = 1 - min(self.ema, updates / (updates + 9))
        if shares is None or not updates:
            self.stage_mean.lerp_(batch_mean, rate)
        else:
            rates = rate * (len(shares) * shares.float()).clamp(max=1)
            self.stage_mean.lerp_(batch_mean, rates.reshape(-1, *[1] * (sides - 1)))
        self.count += 1

    def bank_queries(self, model: Dedos, fill: LiveFill) -> Tensor:
        """Return the bank's Q [n, c] with gradient: what inference would use if training ended now.

        static: Eq. 6-8 on the kernels, which get gradient; ema: Eq. 7-8 on the running mean, where
        only W_Q and b_Q do. Before its first update the mean is that of no denoising: the kernels.
        """
        proxy = model.proxy_queries
        if fill == "static" or int(self.count) == 0:
            return proxy.global_queries(proxy.stage_queries())
        return proxy.global_queries(self.stage_mean)


@torch.no_grad()
def clip_pair(
    model: Dedos, x_b: Tensor, x_a: Tensor, layers: tuple[int, ...]
) -> tuple[list[Tensor], list[Tensor], tuple[int, int]]:
    """Return f^{clip,b} and f^{clip,a} of Eq. 9, each [B, P, C] per layer, and the grid (gh, gw).

    x_b, x_a: uint8 BGR [B, H, W, 3]; resized to the multiple of CLIP's patch nearest to x_b.
    """
    patch = model.config.clip.patch
    grid_hw = (max(1, round(x_b.shape[1] / patch)), max(1, round(x_b.shape[2] / patch)))
    size_hw = (grid_hw[0] * patch, grid_hw[1] * patch)
    both = torch.cat([_resized(x_b, size_hw), _resized(x_a, size_hw)])
    with fused_attention():
        pairs = [tokens.chunk(2) for tokens in model.trunk.plain_features(both, layers)]
    return [before for before, _ in pairs], [after for _, after in pairs], grid_hw


@torch.no_grad()
def set_weights(model: Dedos, images: Tensor, queries: Tensor) -> Tensor:
    """Return the decoder's weights of M sets, [B, M], for images asked with their own sets.

    images: uint8 BGR [B, H, W, 3] at the network size; queries: [B, M, n, c].
    """
    with fused_attention():
        found = model.image_features(images, queries).set_weights
    assert found is not None
    return found


def set_means(stages: Tensor, shares: Tensor) -> Tensor:
    """Return the mean of q_{L,t} of every set, [M, N, n, c], over the images that ask with it.

    stages: sums over images of g q_{L,t}; shares: sums of g, [M]. Of a set that no image asked with, as
    a sharp gate rounds, zeros.
    """
    return stages / shares.clamp_min(torch.finfo(shares.dtype).tiny)[:, None, None, None]


def _resized(images: Tensor, size_hw: tuple[int, int]) -> Tensor:
    if tuple(images.shape[1:3]) == size_hw:
        return images
    maps = images.permute(0, 3, 1, 2).float()
    maps = F.interpolate(maps, size=size_hw, mode="bilinear", align_corners=False, antialias=True)
    return maps.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


@dataclass(frozen=True)
class LearningSource:
    """The diffusion that a learning belongs to."""

    diffusion: dict[str, Any]
    """The diffusion's settings as plain JSON values, `asdict(DiffusionSettings)`."""
    fingerprint: str
    """`LatentDiffusion.fingerprint`, since other weights give features the reader never saw."""


def save_learning(path: Path | str, learning: DenoisingLearning, source: LearningSource) -> None:
    """Write `learning` and what it takes to use it again to `path`, atomically.

    Raises BadInputError when the file cannot be written.
    """
    path = Path(path)
    record = {
        "config": learning.config.to_dict(),
        "channels": list(learning.reader.channels),
        "mask_map": learning.reader.mask_map,
        "separation": learning.texture is not None,
        "ema": learning.ema,
        "source": asdict(source),
    }
    tensors = {n: v.detach().cpu().contiguous() for n, v in learning.state_dict().items()}
    metadata = {"format": FORMAT, "learning": json.dumps(record)}
    try:
        write_atomically(path, save(tensors, metadata=metadata))
    except OSError as error:
        raise BadInputError(
            f"cannot write {path} ({error.strerror or error}); make room or choose another folder"
        ) from error


def load_learning(path: Path | str) -> tuple[DenoisingLearning, LearningSource]:
    """Return what `save_learning` wrote, in eval mode.

    Raises BadInputError when the file is missing, damaged, or of another format.
    """
    path = Path(path)
    if not path.is_file():
        raise BadInputError(
            f"{path} does not exist; a run with --diffusion writes it beside its checkpoint"
        )

    def unreadable(reason: str) -> BadInputError:
        return BadInputError(
            f"{path} is not a readable safetensors file ({reason}); resume its run to write it again"
        )

    metadata, tensors = read_tensors(path, unreadable)
    if metadata.get("format") != FORMAT:
        raise BadInputError(
            f"{path} has format {shown(metadata.get('format'))}, expected {FORMAT!r}; give the "
            "learning.safetensors of a run by dedos-train --diffusion"
        )
    config, header = _header(path, metadata.get("learning", ""))
    unfit = partial(_unfit, path)
    # First: a few bytes of a file must not decide how much is allocated.
    held, needed = sum(value.numel() for value in tensors.values()), _least_numbers(config, header)
    if needed > held:
        raise unfit(f"it needs {needed} numbers at least, the file holds {held}")
    with foreign(unfit):
        learning = _built(config, header)
    load_strictly(learning, tensors, unfit)
    return learning.eval(), header.source


def _unfit(path: Path, reason: str) -> BadInputError:
    return BadInputError(
        f"{path} does not fit its own header ({reason}); resume its run to write it again"
    )


@dataclass(frozen=True)
class _Header:
    """What `save_learning` notes of a learning; see DenoisingLearning and LearningSource."""

    config: Any
    channels: list[int]
    mask_map: MaskMap
    separation: bool
    ema: float
    source: LearningSource


def _header(path: Path, text: str) -> tuple[ModelConfig, _Header]:
    try:
        header: _Header = checked(_Header, load_json(text), "")
        if not header.channels or min(header.channels) < 1:
            raise FieldError("channels must be positive")
        return config_from_dict(header.config), header
    except (FieldError, BadInputError) as error:
        raise BadInputError(
            f"{path} has a damaged header ({error}); resume its run to write it again"
        ) from error


def _least_numbers(config: ModelConfig, header: _Header) -> int:
    """Return how many numbers keys, values and the running mean have; the rest grows with these."""
    means = config.query_sets * config.steps * config.queries
    return (2 * sum(header.channels) + means) * config.query_width


def _built(config: ModelConfig, header: _Header) -> DenoisingLearning:
    return DenoisingLearning(
        config,
        header.channels,
        steps=config.steps,
        mask_map=header.mask_map,
        separation=header.separation,
        ema=header.ema,
    )
