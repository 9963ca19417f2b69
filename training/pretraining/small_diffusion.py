"""Pretraining of a small latent diffusion model, written as the folder that diffusers writes.

An autoencoder learns first; its latents, made once, teach the noise predictor. The folder is read
by the same code as Stable Diffusion: vae/, unet/, scheduler/ and an embedded empty prompt.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dedos_deploy.errors import BadInputError, require
from dedos_deploy.progress import QUIET, Progress, Stages
from dedos_deploy.threads import usable_threads
from dedos_deploy.training.diffusion.files import EMPTY_PROMPT
from dedos_deploy.training.distributed import choose_device
from dedos_deploy.training.pretraining.captions import EMPTY_ROW, Prompts, embed_captions, mirrored
from dedos_deploy.training.pretraining.diffusion_folder import (
    INDEX,
    write_bytes,
    write_index,
    write_model,
    write_prompt,
)
from dedos_deploy.training.pretraining.diffusion_report import (
    NanoReport,
    draw_sheets,
    measure,
    read_back,
)
from dedos_deploy.training.pretraining.diffusion_settings import NanoSettings
from dedos_deploy.training.pretraining.images import Pictures, read_pictures
from dedos_deploy.training.pretraining.loop import (
    LoopSettings,
    LossOf,
    PretrainingLoop,
    StateFile,
    cosine,
    telling,
)
from dedos_deploy.training.pretraining.unet import (
    build_network_optimizer,
    build_scheduler,
    build_unet,
    unet_loss,
)
from dedos_deploy.training.pretraining.vae import (
    build_vae,
    pixels_from_images,
    standardize,
    vae_loss,
)

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNet2DConditionModel

REPORT = "report.json"
VAE_STATE, UNET_STATE = "vae_state.safetensors", "unet_state.safetensors"
HELD_OUT = 16
ENCODED_AT_ONCE = 8
WARMUP = 50
EMA = 0.99
WHOLE_BATCH = 2
"""Whole pictures in a step of the autoencoder; each costs as much as five crops of 64x64."""


Network = TypeVar("Network", bound=nn.Module)


def pretrain_diffusion(
    data: Sequence[str],
    settings: NanoSettings,
    output: Path,
    *,
    resume: bool = False,
    progress: Progress = QUIET,
) -> NanoReport:
    """Teach a small latent diffusion model the pictures of `data` and write it to `output`.

    data: sources as `read_pictures` takes them; output: gets vae/, unet/, scheduler/,
    empty_prompt.safetensors, reconstructions.png, samples.png and report.json; resume: go on with
    what an interrupted run left there, and do nothing to a finished one; progress: its parts.

    Raises BadInputError for unusable settings, data or output; KeyboardInterrupt after Ctrl-C, with
    the state saved.
    """
    return _Pretraining(data, settings, output, progress).run(resume)


class _Pretraining:
    """The parts of one run, in order; `run` calls each once."""

    def __init__(
        self, data: Sequence[str], settings: NanoSettings, output: Path, progress: Progress
    ) -> None:
        self.data, self.settings, self.output = data, settings, output
        # Once the noise predictor has begun, the latents it learns must not change any more.
        self.has_latents = (output / UNET_STATE).exists()
        self.stages = Stages(progress, total=5 - self.has_latents)
        self.seconds: dict[str, float] = {}
        require("diffusers", extra="train", purpose="pretraining a diffusion model")
        self.device = choose_device(settings.device)
        if settings.threads:
            torch.set_num_threads(usable_threads(settings.threads))

    def run(self, resume: bool) -> NanoReport:
        self._open_output(resume)
        if (self.output / REPORT).exists():
            return NanoReport.from_json((self.output / REPORT).read_text(encoding="utf-8"))
        pictures = self._read()
        held = held_out(len(pictures))
        learned = np.delete(np.arange(len(pictures)), held)
        images, shown = pictures.images[learned], pictures.images[held]
        digest = hashlib.sha256(images.tobytes()).hexdigest()
        vae_loop = self._learn_vae(images, f"{self.settings.recipe('vae')} {digest}")
        latents, latent_std = self._encode(vae_loop.best_model, images)
        prompts = self._prompts(pictures, learned, held)
        recipe = f"{self.settings.recipe('unet')} {digest}"
        unet_loop = self._learn_unet(latents, prompts, recipe)
        self._write_networks(vae_loop.best_model, unet_loop.best_model, prompts)
        with self._part("measure", "measuring and drawing"):
            diffusion = read_back(self.output, self.device)
            figures = measure(diffusion, self.output, shown, self.settings)
            drawn = Prompts(prompts.table, prompts.rows[-len(held) :])
            draw_sheets(diffusion, self.output, shown, drawn, self.settings)
        report = NanoReport(
            pictures=len(pictures),
            held_out=len(held),
            size_hw=self.settings.size_hw,
            latent_shape=(self.settings.vae.channels, *self.settings.latent_hw),
            figures=figures,
            loss={"vae": vae_loop.mean_terms, "unet": unet_loop.mean_terms},
            steps={"vae": vae_loop.step, "unet": unet_loop.step},
            seconds={name: round(value, 1) for name, value in self.seconds.items()},
            parameters={"vae": _size(vae_loop.model), "unet": _size(unet_loop.model)},
            latent_std=latent_std,
            sources=pictures.credits,
            settings=json.loads(json.dumps({"data": list(self.data), **asdict(self.settings)})),
        )
        write_bytes(self.output / REPORT, (report.to_json() + "\n").encode())
        for name in (VAE_STATE, UNET_STATE):
            (self.output / name).unlink(missing_ok=True)
        return report

    def _open_output(self, resume: bool) -> None:
        try:
            self.output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadInputError(f"cannot create output folder {self.output}: {error}") from error
        begun = [name for name in (REPORT, VAE_STATE) if (self.output / name).exists()]
        if begun and not resume:
            raise BadInputError(
                f"{self.output} already holds a run ({begun[0]}); add --resume to go on with it, "
                "or choose another --output"
            )

    def _read(self) -> Pictures:
        with self._part("read", "reading pictures") as progress:
            pictures = read_pictures(
                self.data,
                self.settings.size_hw,
                captions=self.settings.text is not None,
                limit=self.settings.limit,
                progress=progress,
            )
        if len(pictures) < 2:
            raise BadInputError(
                f"{', '.join(self.data)} holds {len(pictures)} pictures; a few hundred are needed"
            )
        return pictures

    def _prompts(
        self, pictures: Pictures, learned: NDArray[np.int64], held: NDArray[np.int64]
    ) -> Prompts:
        """Return the captions of what is learned, of its mirror images, and of what is held out."""
        captions = [pictures.captions[index] for index in learned]
        wanted = [*captions, *map(mirrored, captions), *(pictures.captions[i] for i in held)]
        return embed_captions(wanted, self.settings.text, self.settings.unet.text)

    def _learn_vae(self, images: NDArray[np.uint8], recipe: str) -> PretrainingLoop[AutoencoderKL]:
        settings = self.settings
        torch.manual_seed(settings.seed)
        vae = build_vae(settings.vae, settings.size_hw).to(self.device)
        vae = vae.to(memory_format=torch.channels_last).train()
        loop = PretrainingLoop(
            vae,
            build_network_optimizer(vae, settings.vae.lr),
            self._length("autoencoder", settings.vae_steps, settings.vae_part, 2 * settings.seed),
            StateFile(self.output / VAE_STATE, recipe),
        )
        _go_on(loop)

        def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
            whole = loop.progress >= 1 - settings.vae.whole
            batch = vae_batch(images, settings, step, whole=whole)
            with self._half():
                return vae_loss(vae, pixels_from_images(batch.to(self.device)), settings.vae)

        if not self.has_latents:
            self._learn("vae", loop, loss_of, spent_s=self.seconds["read"])
        return loop

    def _encode(self, vae: AutoencoderKL, images: NDArray[np.uint8]) -> tuple[Tensor, list[float]]:
        """Return unit latents float16 [2N, C, h, w] of the pictures and of their mirror images,
        and the deviation they had; `vae` gives unit latents from now on."""
        with self._part("encode", "encoding latents") as progress:
            latents = self._latents(vae, images, progress)
            mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
            standardize(vae, mean.to(self.device), std.to(self.device))
            latents = (latents - mean.view(-1, 1, 1)) / std.view(-1, 1, 1)
        return latents.half(), [round(float(value), 4) for value in std]

    @torch.no_grad()
    def _latents(self, vae: AutoencoderKL, images: NDArray[np.uint8], progress: Progress) -> Tensor:
        found = []
        starts = range(0, len(images), ENCODED_AT_ONCE)
        batches = [(side, start) for side in (images, images[:, :, ::-1]) for start in starts]
        for side, start in progress.counted(batches, len(batches), "batch"):
            part = np.ascontiguousarray(side[start : start + ENCODED_AT_ONCE])
            pixels = pixels_from_images(torch.from_numpy(part).to(self.device))
            with self._half():
                mean = vae.encode(pixels).latent_dist.mean
            found.append(mean.float().cpu())
        return torch.cat(found)

    def _learn_unet(
        self, latents: Tensor, prompts: Prompts, recipe: str
    ) -> PretrainingLoop[UNet2DConditionModel]:
        settings = self.settings
        torch.manual_seed(settings.seed + 1)
        shape = replace(settings.unet, text=prompts.table.shape[-1])
        unet = build_unet(shape, settings.vae.channels, settings.latent_hw).to(self.device)
        unet = unet.to(memory_format=torch.channels_last).train()
        scheduler = build_scheduler(settings.unet.prediction)
        part, seed = 1 - settings.vae_part, 2 * settings.seed + 1
        loop = PretrainingLoop(
            unet,
            build_network_optimizer(unet, settings.unet.lr, settings.unet.hidden_lr),
            self._length("noise predictor", settings.unet_steps, part, seed),
            StateFile(self.output / UNET_STATE, recipe),
        )
        _go_on(loop)
        table = prompts.table.to(self.device)

        def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
            items = chosen(step, settings.unet.batch, len(latents), settings.seed)
            rows = prompts.rows[items].masked_fill(
                torch.rand(len(items)) < settings.unet.empty, EMPTY_ROW
            )
            batch = latents[items].float().to(self.device)
            batch = batch.contiguous(memory_format=torch.channels_last)
            with self._half():
                return unet_loss(unet, scheduler, batch, table[rows.to(self.device)], settings.unet)

        self._learn("unet", loop, loss_of, spent_s=self.seconds["encode"])
        return loop

    def _length(self, name: str, steps: int | None, part: float, seed: int) -> LoopSettings:
        settings = self.settings
        return LoopSettings(
            name,
            steps,
            None if settings.minutes is None else settings.minutes * part,
            rate=cosine(WARMUP),
            advice="try --no-amp or another --seed",
            ema=EMA,
            seed=seed,
            save_minutes=settings.save_minutes,
        )

    def _half(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.amp)

    def _learn(
        self, name: str, loop: PretrainingLoop[Network], loss_of: LossOf, *, spent_s: float
    ) -> None:
        """Run `loop`; what was spent on its data counts as its time."""
        if not loop.step:
            loop.elapsed_s = spent_s
        if loop.progress >= 1 and not loop.step:
            raise BadInputError(
                f"preparing the data of the {loop.settings.name} took {spent_s:.0f} s, all of its "
                "time; give more --minutes or fewer pictures"
            )
        with self.stages.stage(f"training the {loop.settings.name}") as progress:
            loop.run(loss_of, telling(progress))
        self.seconds[name] = loop.elapsed_s

    def _write_networks(
        self, vae: AutoencoderKL, unet: UNet2DConditionModel, prompts: Prompts
    ) -> None:
        write_model(vae, self.output / "vae")
        write_model(unet, self.output / "unet")
        write_model(build_scheduler(self.settings.unet.prediction), self.output / "scheduler")
        write_prompt(self.output / EMPTY_PROMPT, prompts.empty)
        write_index(self.output / INDEX)

    @contextmanager
    def _part(self, name: str, title: str) -> Iterator[Progress]:
        before = time.monotonic()
        with self.stages.stage(title) as progress:
            yield progress
        self.seconds[name] = time.monotonic() - before


def _go_on(loop: PretrainingLoop[Network]) -> None:
    if loop.state is not None and loop.state.path.exists():
        loop.resume()


def held_out(count: int) -> NDArray[np.int64]:
    """Return the indices of pictures that nothing learns from, evenly spaced: at most an eighth."""
    kept = max(1, min(HELD_OUT, count // 8))
    return np.unique(np.linspace(0, count - 1, kept).astype(np.int64))


def vae_batch(
    images: NDArray[np.uint8], settings: NanoSettings, step: int, *, whole: bool
) -> Tensor:
    """Return crops of pictures [N, H, W, 3], or whole ones, half of them mirrored; uint8 as these."""
    random = np.random.default_rng((settings.seed, 2, step))
    side = (settings.vae.crop, settings.vae.crop)
    height, width = settings.size_hw if whole else side
    found = []
    for index in chosen(
        step, WHOLE_BATCH if whole else settings.vae.batch, len(images), settings.seed
    ).tolist():
        y, x = (
            int(random.integers(0, full - part + 1))
            for full, part in zip(settings.size_hw, (height, width), strict=True)
        )
        crop = images[index, y : y + height, x : x + width]
        found.append(crop[:, ::-1] if random.random() < 0.5 else crop)
    return torch.from_numpy(np.stack(found))


def chosen(step: int, batch: int, count: int, seed: int) -> Tensor:
    """Return int64 [batch], the items of one step: every item comes once before any comes again."""
    numbers = np.arange(step * batch, (step + 1) * batch)
    found = np.empty(batch, np.int64)
    for epoch in np.unique(numbers // count).tolist():
        order = np.random.default_rng((seed, 1, epoch)).permutation(count)
        mine = numbers // count == epoch
        found[mine] = order[numbers[mine] % count]
    return torch.from_numpy(found)


def _size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
