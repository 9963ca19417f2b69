"""The frozen diffusion model: Eq. 1-2 against float64 and diffusers' own scheduler, taps, loading."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_diffusion import write_tiny_diffusion
from torch import Tensor

from dedos_deploy.errors import BadInputError
from dedos_deploy.training.diffusion.files import DiffusionParts, Schedule
from dedos_deploy.training.diffusion.walk import (
    DiffusionSettings,
    LatentDiffusion,
    load_diffusion,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_diffusion(tmp_path_factory.mktemp("sd") / "tiny")


@pytest.fixture(scope="module")
def tiny(folder: Path) -> LatentDiffusion:
    return load_diffusion(DiffusionSettings(str(folder), size_hw=(32, 48)))


def images(seed: int = 0, count: int = 2, size_hw: tuple[int, int] = (32, 48)) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, *size_hw, 3), dtype=torch.uint8, generator=generator)


def test_the_latent_code_is_the_scaled_mean_of_the_encoder(tiny: LatentDiffusion) -> None:
    image = images()
    rgb = image.flip(-1).permute(0, 3, 1, 2).double() / 127.5 - 1
    with torch.no_grad():
        expected = tiny.vae.encode(rgb.float()).latent_dist.mean * 0.5
    assert torch.allclose(tiny.encode(image), expected, atol=1e-6)
    assert tiny.encode(image).shape == (2, 4, 8, 12)


def test_images_of_another_size_are_resized(tiny: LatentDiffusion) -> None:
    flat = torch.full((1, 60, 50, 3), 90, dtype=torch.uint8)
    assert torch.allclose(tiny.encode(flat), tiny.encode(flat[:, :32, :48]), atol=1e-5)


def test_shrinking_averages_over_what_it_leaves_out(tiny: LatentDiffusion) -> None:
    ramp = torch.linspace(0, 130, 192)[:, None].expand(1, 128, 192, 3)
    lines = torch.zeros(128, 1, 1)
    lines[::4] = 120
    found, expected, unlike = (tiny.encode((ramp + add).byte()) for add in (lines, 30, 0))
    inner = (..., slice(2, -2), slice(2, -2))
    assert (found - expected)[inner].norm() < 0.2 * (unlike - expected)[inner].norm()


def test_a_shift_of_the_code_is_taken_off_and_put_back(tmp_path: Path, folder: Path) -> None:
    root = shutil.copytree(folder, tmp_path / "sd")
    config = json.loads((root / "vae/config.json").read_text())
    (root / "vae/config.json").write_text(json.dumps({**config, "shift_factor": 0.25}))
    plain, shifted = (
        load_diffusion(DiffusionSettings(str(path), size_hw=(32, 48))) for path in (folder, root)
    )
    latents = plain.encode(images())
    assert torch.allclose(shifted.encode(images()), latents - 0.25 * 0.5, atol=1e-6)
    assert torch.equal(shifted.decode(latents - 0.25 * 0.5), plain.decode(latents))


@pytest.mark.parametrize(
    "wrong", [torch.zeros(1, 32, 48, 3), torch.zeros(1, 3, 32, 48, dtype=torch.uint8)]
)
def test_other_images_than_bgr_bytes_are_refused(tiny: LatentDiffusion, wrong: Tensor) -> None:
    with pytest.raises(BadInputError, match=r"the diffusion reads uint8 BGR \[B, H, W, 3\]"):
        tiny.encode(wrong)


def ddim64(
    z: np.ndarray, found: np.ndarray, now: float, then: float, prediction: str
) -> np.ndarray:
    """One step of DDIM with eta 0 by its definition, in float64."""
    if prediction == "epsilon":
        epsilon = found
        clean = (z - np.sqrt(1 - now) * epsilon) / np.sqrt(now)
    elif prediction == "v_prediction":
        clean = np.sqrt(now) * z - np.sqrt(1 - now) * found
        epsilon = (z - np.sqrt(now) * clean) / np.sqrt(1 - now)
    else:
        clean = found
        epsilon = (z - np.sqrt(now) * clean) / np.sqrt(1 - now)
    return np.asarray(np.sqrt(then) * clean + np.sqrt(1 - then) * epsilon)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("one", [False, True])
def test_the_walk_equals_ddim_by_its_definition(tmp_path: Path, prediction: str, one: bool) -> None:
    written = write_tiny_diffusion(tmp_path / "sd", prediction=prediction, final_alpha_one=one)
    model = load_diffusion(DiffusionSettings(str(written), size_hw=(16, 16)))
    latents = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    alphas = np.cumprod(1 - betas)
    prompt = model.empty_prompt.expand(2, -1, -1)
    z = latents.double().numpy()
    ends = [alphas[100], alphas[50], 1.0 if one else alphas[0]]
    for time, then in zip((200, 100, 50), ends, strict=True):
        with torch.no_grad():
            found = model.unet(
                torch.from_numpy(z).float(),
                torch.tensor([time, time]),
                encoder_hidden_states=prompt,
            ).sample
        z = ddim64(z, found.double().numpy(), alphas[time], then, prediction)
    np.testing.assert_allclose(model.denoise(latents).latents.numpy(), z, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("one", [False, True])
def test_the_walk_equals_diffusers_own_scheduler(
    tmp_path: Path, prediction: str, one: bool
) -> None:
    from diffusers import DDIMScheduler

    root = write_tiny_diffusion(tmp_path / "sd", prediction=prediction, final_alpha_one=one)
    times = (249, 149, 49)
    model = load_diffusion(DiffusionSettings(str(root), timesteps=times, size_hw=(16, 24)))
    scheduler = DDIMScheduler.from_pretrained(root, subfolder="scheduler")
    latents = torch.randn(2, 4, 4, 6, generator=torch.Generator().manual_seed(2))
    z = latents
    # The scheduler knows even steps only, so that each gap is set by a number of steps.
    for time, gap in zip(times, (100, 100, 50), strict=True):
        scheduler.set_timesteps(1000 // gap)
        with torch.no_grad():
            found = model.unet(
                z, time, encoder_hidden_states=model.empty_prompt.expand(2, -1, -1)
            ).sample
        z = scheduler.step(found, time, z, eta=0.0).prev_sample
    assert torch.allclose(model.denoise(latents).latents, z, atol=1e-4)


def test_a_batch_of_two_equals_two_of_one(tiny: LatentDiffusion) -> None:
    together, apart = images(), images().split(1)
    latents = tiny.encode(together)
    walked, alone = tiny.denoise(latents), [tiny.denoise(tiny.encode(one)) for one in apart]
    assert torch.allclose(walked.latents, torch.cat([one.latents for one in alone]), atol=1e-5)
    for step in range(3):
        for layer in range(5):
            single = torch.cat([one.features[step][layer] for one in alone])
            assert torch.allclose(walked.features[step][layer], single, atol=1e-5)
    decoded = torch.cat([tiny.decode(one.latents) for one in alone])
    assert (tiny.decode(walked.latents).int() - decoded.int()).abs().max() <= 1


def test_timesteps_are_walked_from_high_to_low_with_features_of_each(
    tiny: LatentDiffusion,
) -> None:
    latents = tiny.encode(images())
    walked = tiny.denoise(latents)
    assert DiffusionSettings("x", timesteps=(50, 200, 100)).timesteps == (200, 100, 50)
    assert (tiny.steps, len(walked.features)) == (3, 3)
    shapes = [tuple(f.shape[1:]) for f in walked.features[0]]
    assert [shape[0] for shape in shapes] == list(tiny.channels)
    assert shapes == [(8, 4, 6), (16, 4, 6), (16, 4, 6), (16, 8, 12), (8, 8, 12)]
    single = load_diffusion(replace(tiny.settings, timesteps=(200,)))
    first = single.denoise(latents).features[0]
    for found, expected in zip(walked.features[0], first, strict=True):
        assert torch.equal(found, expected)
    assert not torch.equal(walked.features[1][0], walked.features[0][0])


def test_the_taps_are_what_the_blocks_return(tiny: LatentDiffusion) -> None:
    latents = tiny.encode(images())
    found = tiny.denoise(latents).features[0]
    seen: dict[str, Tensor] = {}
    handles = [
        tiny.unet.conv_out.register_forward_pre_hook(lambda _m, inputs: seen.update(out=inputs[0])),
        tiny.unet.mid_block.register_forward_pre_hook(
            lambda _m, inputs: seen.update(mid=inputs[0])
        ),
    ]
    single = load_diffusion(replace(tiny.settings, timesteps=(200,), taps="up"))
    tiny.denoise(latents)
    for handle in handles:
        handle.remove()
    norm = tiny.unet.conv_norm_out
    last = tiny.denoise(latents).features[2][-1]
    assert torch.allclose(torch.nn.functional.silu(norm(last)), seen["out"], atol=1e-5)
    assert torch.equal(tiny.denoise(latents).features[2][1], seen["mid"])
    assert single.channels == tiny.channels[3:] == (16, 8)
    for up, expected in zip(single.denoise(latents).features[0], found[3:], strict=True):
        assert torch.equal(up, expected)


def test_hooks_are_gone_after_a_walk_and_after_a_failure(tiny: LatentDiffusion) -> None:
    latents = tiny.encode(images())
    tiny.denoise(latents)
    with pytest.raises(RuntimeError):
        tiny.denoise(latents[:, :2])
    assert not any(layer._forward_hooks for layer in tiny.layers)


def test_the_clean_latent_is_taken_as_noisy_unless_noise_is_asked_for(
    tiny: LatentDiffusion,
) -> None:
    noisy = load_diffusion(replace(tiny.settings, add_noise=True))
    latents = tiny.encode(images())
    plain = tiny.denoise(latents, seed=1).latents
    assert torch.equal(plain, tiny.denoise(latents, seed=2).latents)
    one, same, other = (noisy.denoise(latents, seed=seed).latents for seed in (1, 1, 2))
    alone = noisy.denoise(latents[1:], seed=2).latents
    assert torch.allclose(alone, one[1:], atol=1e-5)
    assert torch.equal(one, same) and not torch.equal(one, other) and not torch.equal(one, plain)
    alpha = float(noisy.alphas[200])
    noise = torch.stack(
        [
            torch.randn(latents.shape[1:], generator=torch.Generator().manual_seed(1 + index))
            for index in range(len(latents))
        ]
    )
    expected = alpha**0.5 * latents + (1 - alpha) ** 0.5 * noise
    assert torch.allclose(noisy._noised(latents, 200, 1), expected)


def test_decoding_returns_bgr_bytes_of_the_size_it_reads(tiny: LatentDiffusion) -> None:
    latents = tiny.encode(images())
    found = tiny.decode(latents)
    with torch.no_grad():
        rgb = tiny.vae.decode(latents / 0.5).sample
    expected = ((rgb + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    assert found.shape == (2, 32, 48, 3) and found.dtype == torch.uint8
    assert torch.equal(found.flip(-1).permute(0, 3, 1, 2), expected)


def test_it_stays_frozen(tiny: LatentDiffusion) -> None:
    assert not any(parameter.requires_grad for parameter in tiny.parameters())
    tiny.train()
    assert not any(module.training for module in tiny.modules())
    features = tiny.denoise(tiny.encode(images())).features
    weight = torch.ones(8, requires_grad=True)
    (features[0][0].mean((2, 3)) @ weight).sum().backward()
    assert weight.grad is not None and not features[0][0].requires_grad


def test_the_fingerprint_follows_what_changes_results(
    tmp_path: Path, folder: Path, tiny: LatentDiffusion
) -> None:
    moved = shutil.copytree(folder, tmp_path / "moved")
    assert load_diffusion(replace(tiny.settings, model=str(moved))).fingerprint == tiny.fingerprint
    changes = (
        {"timesteps": (100,)},
        {"size_hw": (32, 32)},
        {"add_noise": True},
        {"half": True},
        {"taps": "up"},
    )
    for change in changes:
        assert load_diffusion(replace(tiny.settings, **change)).fingerprint != tiny.fingerprint
    other = write_tiny_diffusion(tmp_path / "other", seed=5)
    assert load_diffusion(replace(tiny.settings, model=str(other))).fingerprint != tiny.fingerprint


def test_half_precision_stays_close(tiny: LatentDiffusion) -> None:
    half = load_diffusion(replace(tiny.settings, half=True))
    assert next(half.unet.parameters()).dtype == torch.bfloat16
    full, found = (m.denoise(m.encode(images())).features[0][-1].float() for m in (tiny, half))
    assert float((full - found).norm() / full.norm()) < 0.05
    assert next(half.vae.parameters()).dtype == torch.float32
    assert torch.equal(half.encode(images()), tiny.encode(images()))
    assert half.denoise(half.encode(images())).latents.dtype == torch.float32


def test_an_overflow_of_half_precision_is_no_result(tiny: LatentDiffusion) -> None:
    half = load_diffusion(replace(tiny.settings, half=True))
    half.unet.conv_out.bias.fill_(3e38)
    with pytest.raises(BadInputError, match=r"overflows in torch.bfloat16; use it in full"):
        half.denoise(half.encode(images()))


@pytest.mark.parametrize(
    ("config", "parameters", "native"),
    [
        (
            {
                "cross_attention_dim": 1024,
                "attention_head_dim": [5, 10, 20, 20],
                "sample_size": 96,
                "use_linear_projection": True,
            },
            865_910_724,
            768,
        ),
        (
            {"cross_attention_dim": 768, "attention_head_dim": 8, "sample_size": 64},
            859_520_964,
            512,
        ),
    ],
    ids=["2.1", "1.5"],
)
def test_nine_taps_in_stable_diffusion(
    config: dict[str, object], parameters: int, native: int
) -> None:
    from diffusers import AutoencoderKL, UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(**config)
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            latent_channels=4,
            layers_per_block=2,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
        )
        prompt = torch.empty(1, 77, unet.config.cross_attention_dim)
        schedule = Schedule(torch.linspace(0.999, 0.005, 1000, device="cpu"), 0.999, "epsilon")
        model = LatentDiffusion(
            DiffusionSettings("x", timesteps=(200, 50)), DiffusionParts(vae, unet, schedule, prompt)
        )
        walked = model.denoise(torch.empty(1, 4, 80, 80))
    assert sum(parameter.numel() for parameter in unet.parameters()) == parameters
    assert sum(parameter.numel() for parameter in vae.parameters()) == 83_653_863
    assert model.size_hw == (native, native)
    assert model.channels == (320, 640, 1280, 1280, 1280, 1280, 1280, 640, 320)
    assert [tuple(layer.shape[1:]) for layer in walked.features[1]] == [
        (320, 40, 40),
        (640, 20, 20),
        (1280, 10, 10),
        (1280, 10, 10),
        (1280, 10, 10),
        (1280, 20, 20),
        (1280, 40, 40),
        (640, 80, 80),
        (320, 80, 80),
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "/nowhere/sd"}, "there is no diffusion folder '/nowhere/sd'"),
        ({"timesteps": (5000,)}, r"timestep 5000 is beyond the 1000 steps"),
        ({"size_hw": (33, 32)}, r"diffusion size 33x32 must be a multiple of 8; .* 32x32"),
    ],
)
def test_unusable_settings_are_named(
    tiny: LatentDiffusion, change: dict[str, object], message: str
) -> None:
    with pytest.raises(BadInputError, match=message):
        load_diffusion(replace(tiny.settings, **change))


@pytest.mark.parametrize("times", [(), (50, 50), (0, 10), (50.5, 10), (True, 10)])
def test_timesteps_must_differ_and_be_positive(times: tuple[int, ...]) -> None:
    with pytest.raises(BadInputError, match="must be different whole numbers of at least 1"):
        DiffusionSettings("x", timesteps=times)
