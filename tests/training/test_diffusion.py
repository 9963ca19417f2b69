"""The frozen diffusion model: Eq. 1-2 against float64 and diffusers' own scheduler, taps, loading."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_diffusion import PROMPT_WIDTH, write_tiny_diffusion
from torch import Tensor

from dedos_deploy.errors import BadInputError
from dedos_deploy.training.diffusion import (
    DiffusionSettings,
    LatentDiffusion,
    load_diffusion,
    unet_channels,
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
            found = model.unet(torch.from_numpy(z).float(), torch.tensor([time, time]),
                               encoder_hidden_states=prompt).sample  # fmt: skip
        z = ddim64(z, found.double().numpy(), alphas[time], then, prediction)
    np.testing.assert_allclose(model.denoise(latents).latents.numpy(), z, rtol=1e-4, atol=1e-4)


def test_one_step_equals_diffusers_own_scheduler(folder: Path, tiny: LatentDiffusion) -> None:
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler.from_pretrained(folder, subfolder="scheduler")
    scheduler.set_timesteps(10)
    z, found = torch.randn(2, 1, 4, 8, 12, generator=torch.Generator().manual_seed(2)).unbind()
    time = 401
    expected = scheduler.step(found, time, z).prev_sample
    assert torch.allclose(tiny._step(z, found, time, time - 100), expected, atol=1e-5)


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
    assert torch.equal(one, same) and not torch.equal(one, other) and not torch.equal(one, plain)
    alpha = float(noisy.alphas[200])
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(1))
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
    for change in ({"timesteps": (100,)}, {"size_hw": (32, 32)}, {"add_noise": True}):
        assert load_diffusion(replace(tiny.settings, **change)).fingerprint != tiny.fingerprint
    other = write_tiny_diffusion(tmp_path / "other", seed=5)
    assert load_diffusion(replace(tiny.settings, model=str(other))).fingerprint != tiny.fingerprint


def test_half_precision_stays_close(tiny: LatentDiffusion) -> None:
    half = load_diffusion(replace(tiny.settings, half=True))
    assert next(half.unet.parameters()).dtype == torch.bfloat16
    full, found = (m.denoise(m.encode(images())).features[0][-1].float() for m in (tiny, half))
    assert float((full - found).norm() / full.norm()) < 0.05


@pytest.mark.parametrize(
    ("name", "widths", "depth"),
    [("stable-diffusion-2-1", (320, 640, 1280, 1280), 1024),
     ("stable-diffusion-v1-5", (320, 640, 1280, 1280), 768)],
)  # fmt: skip
def test_nine_taps_in_stable_diffusion(name: str, widths: tuple[int, ...], depth: int) -> None:
    from diffusers import UNet2DConditionModel

    heads = [5, 10, 20, 20] if depth == 1024 else 8
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=96, block_out_channels=widths, cross_attention_dim=depth,
            attention_head_dim=heads, use_linear_projection=depth == 1024,
        ).eval()  # fmt: skip
        shapes: list[int] = []
        for layer in (*unet.down_blocks, unet.mid_block, *unet.up_blocks):
            layer.register_forward_hook(
                lambda _m, _i, out: shapes.append(
                    (out[0] if isinstance(out, tuple) else out).shape[1]
                )
            )
        unet(torch.empty(1, 4, 80, 80), torch.tensor([50]), torch.empty(1, 77, depth))
    assert tuple(shapes) == unet_channels(unet) == (*widths, 1280, 1280, 1280, 640, 320)


def test_the_empty_prompt_comes_from_the_text_encoder(
    tmp_path: Path, folder: Path, tiny: LatentDiffusion
) -> None:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    root = shutil.copytree(folder, tmp_path / "sd")
    (root / "empty_prompt.safetensors").unlink()
    with pytest.raises(BadInputError, match=r"neither text_encoder/ nor empty_prompt"):
        load_diffusion(replace(tiny.settings, model=str(root)))
    (root / "tokenizer").mkdir()
    words = ["<|startoftext|>", "<|endoftext|>", "a</w>"]
    (root / "tokenizer/vocab.json").write_text(json.dumps({w: i for i, w in enumerate(words)}))
    (root / "tokenizer/merges.txt").write_text("#version: 0.2\n")
    CLIPTokenizer(
        str(root / "tokenizer/vocab.json"), str(root / "tokenizer/merges.txt"), model_max_length=7
    ).save_pretrained(root / "tokenizer")
    torch.manual_seed(3)
    config = CLIPTextConfig(
        vocab_size=3, hidden_size=PROMPT_WIDTH, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=7, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    encoder = CLIPTextModel(config).eval()
    encoder.save_pretrained(root / "text_encoder")
    with torch.no_grad():
        expected = encoder(torch.tensor([[0, 1, 1, 1, 1, 1, 1]]))[0]
    found = load_diffusion(replace(tiny.settings, model=str(root)))
    assert torch.allclose(found.empty_prompt, expected, atol=1e-6)


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


@pytest.mark.parametrize("times", [(), (50, 50), (0, 10)])
def test_timesteps_must_differ_and_be_positive(times: tuple[int, ...]) -> None:
    with pytest.raises(BadInputError, match="must be different whole numbers of at least 1"):
        DiffusionSettings("x", timesteps=times)


def test_a_missing_part_and_a_damaged_file_are_named(
    tmp_path: Path, folder: Path, tiny: LatentDiffusion
) -> None:
    root = shutil.copytree(folder, tmp_path / "sd")
    (root / "unet/config.json").write_text("{")
    with pytest.raises(BadInputError, match=r"cannot read the diffusion model .*sd"):
        load_diffusion(replace(tiny.settings, model=str(root)))
    shutil.rmtree(root / "vae")
    with pytest.raises(BadInputError, match=r"has no vae/"):
        load_diffusion(replace(tiny.settings, model=str(root)))


def test_a_hub_name_without_a_connection_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(BadInputError, match="or a folder downloaded by"):
        load_diffusion(DiffusionSettings("nobody/no-such-diffusion"))
