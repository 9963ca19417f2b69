"""Features, steps and codes of Stable Diffusion 2-1 and 2-1-base, against diffusers' own.

Both in their published configuration with every width over 16: what proxy queries read is compared with
what the last layer inside each block of the noise predictor gives, the walk with the schedulers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_diffusion import SD2_WIDTHS, write_small_sd2
from torch import Tensor, nn

from dedos_deploy.training.diffusion.files import DiffusionParts, read_parts
from dedos_deploy.training.diffusion.walk import DiffusionSettings, LatentDiffusion

pytest.importorskip("diffusers")
from diffusers import AutoencoderKL, DDIMScheduler, PNDMScheduler, UNet2DConditionModel

PUBLISHED = {False: "v_prediction", True: "epsilon"}
"""Whether it is 2-1-base, and what it predicts."""

TIMES = (200, 100, 50)
ATOL = 5e-5


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module", params=PUBLISHED, ids=["2-1", "2-1-base"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_sd2(tmp_path_factory.mktemp("sd2") / "model", base=request.param)


@pytest.fixture(scope="module")
def parts(folder: Path) -> DiffusionParts:
    return read_parts(str(folder))


@pytest.fixture(scope="module")
def scheduler(folder: Path) -> Any:
    """Their DDIM over the published noise; PNDM does not clip, and its file says nothing of it."""
    return DDIMScheduler.from_pretrained(folder, subfolder="scheduler", clip_sample=False)


def walking(parts: DiffusionParts, *times: int) -> LatentDiffusion:
    return LatentDiffusion(DiffusionSettings("sd2", timesteps=times, size_hw=(64, 128)), parts)


def latents(seed: int = 0, count: int = 1) -> Tensor:
    return torch.randn(count, 4, 8, 16, generator=torch.Generator().manual_seed(seed))


def last_layers(unet: Any) -> list[nn.Module]:
    """Return the layers that make the hidden states which each block hands on, in the order it runs."""
    found: list[nn.Module] = []
    for block in (*unet.down_blocks, unet.mid_block, *unet.up_blocks):
        sampler = getattr(block, "downsamplers", None) or getattr(block, "upsamplers", None)
        attention = getattr(block, "attentions", None) if block is not unet.mid_block else None
        found.append((sampler or attention or block.resnets)[-1])
    return found


@contextmanager
def outputs_of(layers: list[nn.Module]) -> Iterator[list[Tensor]]:
    seen: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
        seen.append(output if isinstance(output, Tensor) else output[0])

    handles = [layer.register_forward_hook(keep) for layer in layers]
    yield seen
    for handle in handles:
        handle.remove()


def test_features_and_walk_are_those_of_diffusers(
    folder: Path, parts: DiffusionParts, scheduler: Any
) -> None:
    """Every tap at every step, and where DDIM arrives, by their predictor and their scheduler."""
    unet = UNet2DConditionModel.from_pretrained(folder, subfolder="unet").eval()
    z = latents(1)
    walked = walking(parts, *TIMES).denoise(z)
    for step, (time, gap) in enumerate(zip(TIMES, (100, 50, 50), strict=True)):
        scheduler.set_timesteps(1000 // gap)
        with torch.no_grad(), outputs_of(last_layers(unet)) as seen:
            found = unet(z, time, encoder_hidden_states=parts.empty_prompt).sample
        assert [x.shape[1] for x in seen] == [*SD2_WIDTHS, SD2_WIDTHS[-1], *SD2_WIDTHS[::-1]]
        for ours, theirs in zip(walked.features[step], seen, strict=True):
            assert float(theirs.std()) > 0.05, "nothing to compare"
            torch.testing.assert_close(ours, theirs, atol=ATOL, rtol=1e-4)
        z = scheduler.step(found, time, z, eta=0.0).prev_sample
    torch.testing.assert_close(walked.latents, z, atol=ATOL, rtol=1e-4)


def test_size_and_alphas_are_those_that_were_published(folder: Path, parts: DiffusionParts) -> None:
    base = parts.schedule.prediction == "epsilon"
    native = LatentDiffusion(DiffusionSettings("sd2"), parts)
    assert native.size_hw == ((512, 512) if base else (768, 768))
    kind = PNDMScheduler if base else DDIMScheduler
    published = kind.from_pretrained(folder, subfolder="scheduler")
    assert published.config.prediction_type == PUBLISHED[base]
    alphas = parts.schedule.alphas
    torch.testing.assert_close(alphas, published.alphas_cumprod.double(), atol=0, rtol=0)
    assert parts.schedule.final_alpha == float(published.final_alpha_cumprod) == float(alphas[0])


@pytest.mark.parametrize("time", [50, 200, 999])
def test_a_perfect_prediction_leads_to_the_clean_code(
    parts: DiffusionParts, scheduler: Any, time: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """x0 from v and from the noise: one step from any timestep ends on x0 with the noise of step 0."""
    clean, noise, at = latents(2), latents(3), torch.tensor([time])
    noised = scheduler.add_noise(clean, noise, at)
    epsilon = parts.schedule.prediction == "epsilon"
    exact = noise if epsilon else scheduler.get_velocity(clean, noise, at)
    single = walking(parts, time)
    monkeypatch.setattr(single.unet, "forward", lambda *_, **__: SimpleNamespace(sample=exact))
    found = single.denoise(noised).latents
    expected = scheduler.add_noise(clean, noise, torch.tensor([0]))
    torch.testing.assert_close(found, expected, atol=ATOL, rtol=0)
    assert float((found - noised).abs().max()) > 0.1
    scheduler.set_timesteps(1)
    theirs = scheduler.step(exact, time, noised, eta=0.0).pred_original_sample
    torch.testing.assert_close(theirs, clean, atol=ATOL, rtol=0)


def test_codes_and_pictures_are_those_of_the_autoencoder(
    folder: Path, parts: DiffusionParts
) -> None:
    vae = AutoencoderKL.from_pretrained(folder, subfolder="vae").eval()
    assert vae.config.scaling_factor == 0.18215
    generator = torch.Generator().manual_seed(4)
    bgr = torch.randint(0, 256, (1, 64, 128, 3), dtype=torch.uint8, generator=generator)
    rgb = bgr[..., [2, 1, 0]].permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        code = vae.encode(2 * rgb - 1).latent_dist.mode() * vae.config.scaling_factor
    torch.testing.assert_close(walking(parts, 200).encode(bgr), code, atol=ATOL, rtol=1e-4)
