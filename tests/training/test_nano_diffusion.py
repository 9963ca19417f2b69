"""Nano diffusion: what it learns from, the maths of its losses, and a folder that others can read."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from micro import Write, micro_config
from numpy.typing import NDArray

from dedos_deploy.cli.train import main
from dedos_deploy.errors import BadInputError
from dedos_deploy.model import build_model, save_checkpoint
from dedos_deploy.progress import Progress
from dedos_deploy.scenes import render_image
from dedos_deploy.training.diffusion.walk import DiffusionSettings, load_diffusion
from dedos_deploy.training.pretraining.captions import embed_captions, mirrored
from dedos_deploy.training.pretraining.diffusion_settings import NanoSettings
from dedos_deploy.training.pretraining.images import read_pictures
from dedos_deploy.training.pretraining.small_diffusion import chosen, held_out, pretrain_diffusion
from dedos_deploy.training.pretraining.unet import (
    UNetSettings,
    build_scheduler,
    build_unet,
    draw_latents,
    prediction_target,
    snr_weights,
)
from dedos_deploy.training.pretraining.vae import (
    VaeSettings,
    build_vae,
    pixels_from_images,
    psnr_db,
    pyramid_distance,
    standardize,
)

TINY = NanoSettings(
    size_hw=(32, 32),
    minutes=None,
    vae_steps=6,
    unet_steps=6,
    vae=VaeSettings(widths=(16, 16, 16), crop=16, batch=2, whole=0.34),
    unet=UNetSettings(widths=(8, 16), attention=(1,), head=8, text=8, batch=4),
    draw_steps=2,
    threads=1,
    amp=False,
    device="cpu",
)


class Interrupting(Progress):
    """Sends Ctrl-C to this process when a part of the work has begun and moved on."""

    def __init__(self, title: str) -> None:
        self._title, self._current = title, ""

    def begin(self, number: int, count: int, what: str) -> None:
        self._current = what

    def reached(self, fraction: float, text: str) -> None:
        if self._current == self._title and fraction > 0.4:
            self._current = ""
            os.kill(os.getpid(), signal.SIGINT)


def images_from_pixels(pixels: torch.Tensor) -> NDArray[np.uint8]:
    """Return uint8 BGR [B, H, W, 3] of float RGB [B, 3, H, W]; values outside [-1, 1] saturate."""
    scaled = ((pixels.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return np.ascontiguousarray(scaled.permute(0, 2, 3, 1).flip(-1).cpu().numpy())


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "report.json"
    }


@pytest.mark.parametrize("part", ["training the autoencoder", "training the noise predictor"])
def test_an_interrupted_run_ends_as_the_uninterrupted_one(
    write_folder: Write, tmp_path: Path, part: str
) -> None:
    data = [str(write_folder(items=20))]
    pretrain_diffusion(data, TINY, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        pretrain_diffusion(data, TINY, tmp_path / "parts", progress=Interrupting(part))
    torch.manual_seed(99)
    pretrain_diffusion(data, TINY, tmp_path / "parts", resume=True)
    assert files(tmp_path / "parts") == files(tmp_path / "whole")


def test_a_finished_run_is_kept_and_another_recipe_is_refused(
    write_folder: Write, tmp_path: Path
) -> None:
    data, output = [str(write_folder(items=10))], tmp_path / "run"
    report = pretrain_diffusion(data, TINY, output)
    assert report.pictures == 10 and report.held_out == 1 and report.sources == ("street",)
    assert pretrain_diffusion(data, TINY, output, resume=True) == report
    with pytest.raises(BadInputError, match="already holds a run.*--resume"):
        pretrain_diffusion(data, TINY, output)
    with pytest.raises(KeyboardInterrupt):
        pretrain_diffusion(
            data, TINY, tmp_path / "cut", progress=Interrupting("training the autoencoder")
        )
    with pytest.raises(BadInputError, match="other settings or data"):
        pretrain_diffusion(data, replace(TINY, seed=1), tmp_path / "cut", resume=True)


@pytest.mark.parametrize("prediction", ["v_prediction", "epsilon"])
def test_the_folder_opens_in_diffusers_and_in_our_own_reader(
    write_folder: Write, tmp_path: Path, prediction: str
) -> None:
    import diffusers

    settings = replace(TINY, unet=replace(TINY.unet, prediction=prediction), draw_steps=4)
    output = tmp_path / "run"
    pretrain_diffusion([str(write_folder(items=10))], settings, output)
    ours = load_diffusion(DiffusionSettings(str(output), timesteps=(300, 20)))
    assert ours.size_hw == (32, 32) and ours.channels == (8, 16, 16, 16, 8)
    walked = ours.denoise(ours.encode(torch.full((1, 32, 32, 3), 90, dtype=torch.uint8)))
    assert walked.latents.shape == (1, 4, 8, 8) and len(walked.features) == 2

    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(
        output, text_encoder=None, tokenizer=None
    )
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(3)
    theirs = pipeline(
        prompt_embeds=ours.empty_prompt,
        guidance_scale=1.0,
        num_inference_steps=4,
        generator=generator,
        height=32,
        width=32,
        output_type="latent",
    ).images
    scheduler = build_scheduler(settings.unet.prediction)
    drawn = draw_latents(ours.unet, scheduler, ours.empty_prompt, (8, 8), steps=4, seed=3)
    torch.testing.assert_close(drawn, theirs, atol=1e-4, rtol=1e-4)


def test_written_latents_have_unit_size_and_reconstructions_stay_what_they_were() -> None:
    torch.manual_seed(0)
    vae = build_vae(VaeSettings(widths=(16, 32)), (32, 32)).eval()
    pixels = torch.rand(4, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        before = vae.encode(pixels).latent_dist
        decoded = vae.decode(before.mean).sample
        mean, std = before.mean.mean((0, 2, 3)), before.mean.std((0, 2, 3))
        standardize(vae, mean, std)
        after = vae.encode(pixels).latent_dist
    torch.testing.assert_close(after.mean.mean((0, 2, 3)), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(after.mean.std((0, 2, 3)), torch.ones(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(vae.decode(after.mean).sample, decoded, atol=1e-4, rtol=1e-4)
    # The noise of the posterior is measured in the new unit, too.
    torch.testing.assert_close(after.std, before.std / std.view(-1, 1, 1), atol=1e-4, rtol=1e-4)
    assert vae.config.scaling_factor == 1.0


def test_an_untrained_autoencoder_keeps_colours_and_shapes() -> None:
    torch.manual_seed(0)
    vae = build_vae(VaeSettings(widths=(16, 32, 32)), (64, 64))
    image, _ = render_image("street", seed=3, size_hw=(64, 64))
    coarse = cv2.resize(image, (16, 16), interpolation=cv2.INTER_AREA)
    pixels = pixels_from_images(torch.from_numpy(image[None]))
    with torch.no_grad():
        latents = vae.encode(pixels).latent_dist.mean
        found = images_from_pixels(vae.decode(latents).sample)
    # The first three latents are the mean colour, RGB, of each 4x4 square, up to a common scale.
    expected = pixels_from_images(torch.from_numpy(coarse[None]))[0]
    for colour in range(3):
        pair = torch.stack([latents[0, colour].flatten(), expected[colour].flatten()])
        assert float(torch.corrcoef(pair)[0, 1]) > 0.98
    blurred = cv2.resize(coarse, (64, 64), interpolation=cv2.INTER_LINEAR)
    limit = float(psnr_db(image[None], blurred[None])[0])
    assert float(psnr_db(image[None], found)[0]) > limit - 2.5


def test_the_weight_of_a_timestep_is_min_snr_over_its_own_scale() -> None:
    alphas = torch.tensor([0.99, 0.5, 0.01], dtype=torch.float64)
    settings = UNetSettings(prediction="v_prediction", snr=5.0, floor=0.0)
    # SNR 99, 1 and 1/99; the error of v is that of x_0 times SNR + 1, that of the noise times SNR.
    expected_v = [5 / 100, 1 / 2, (1 / 99) / (100 / 99)]
    expected_noise = [5 / 99, 1.0, 1.0]
    np.testing.assert_allclose(snr_weights(alphas, settings), expected_v)
    np.testing.assert_allclose(
        snr_weights(alphas, replace(settings, prediction="epsilon")), expected_noise
    )
    raised = snr_weights(alphas, replace(settings, floor=0.25))
    np.testing.assert_allclose(raised, [0.25, 1 / 2, 0.25])
    assert snr_weights(alphas, replace(settings, snr=0.0)).tolist() == [1.0, 1.0, 1.0]


def test_the_target_is_v_as_stable_diffusion_defines_it() -> None:
    scheduler = build_scheduler("v_prediction")
    # Stable Diffusion's betas: squares of numbers evenly spaced between two roots.
    alpha = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)[300]
    latents, noise = torch.randn(2, 1, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    found = prediction_target(scheduler, latents, noise, torch.tensor([300]))
    expected = alpha**0.5 * noise - (1 - alpha) ** 0.5 * latents
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    plain = prediction_target(build_scheduler("epsilon"), latents, noise, torch.tensor([300]))
    assert torch.equal(plain, noise)


def test_edges_count_and_flat_colours_do_not() -> None:
    flat = torch.zeros(1, 3, 16, 16)
    assert float(pyramid_distance(flat, flat + 0.5)) == pytest.approx(0.0, abs=1e-6)
    thin = flat.clone()
    thin[..., 7] = 1.0
    area = flat.clone()
    area[..., :4, :4] = 1.0  # as many pixels as the line, a quarter of them on its border
    assert float(pyramid_distance(flat, thin)) > 1.5 * float(pyramid_distance(flat, area))


def test_pixels_are_rgb_and_come_back() -> None:
    images = torch.arange(2 * 4 * 4 * 3, dtype=torch.uint8).reshape(2, 4, 4, 3) * 2
    pixels = pixels_from_images(images)
    assert float(pixels[0, 0, 0, 0]) == pytest.approx(int(images[0, 0, 0, 2]) / 127.5 - 1)
    assert np.array_equal(images_from_pixels(pixels), images.numpy())
    assert psnr_db(images.numpy(), images.numpy()).tolist() == [99.0, 99.0]
    off = np.full((1, 2, 2, 3), 10, np.uint8), np.full((1, 2, 2, 3), 20, np.uint8)
    assert psnr_db(*off)[0] == pytest.approx(20 * np.log10(25.5))


def test_every_item_comes_once_before_any_comes_again() -> None:
    found = torch.cat([chosen(step, 4, 10, seed=1) for step in range(5)]).tolist()
    assert sorted(found[:10]) == sorted(found[10:]) == list(range(10))
    assert found[:10] != found[10:]
    assert chosen(3, 4, 10, seed=1).tolist() == found[12:16]
    assert (
        chosen(0, 25, 10, seed=1).tolist()
        == (found + chosen(5, 4, 10, seed=1).tolist())[:25][:20]
        + chosen(0, 25, 10, seed=1).tolist()[20:]
    )


def test_held_out_pictures_are_few_and_never_learned() -> None:
    assert held_out(2).tolist() == [0]
    assert len(held_out(2000)) == 16 and held_out(2000)[-1] == 1999
    assert len(set(held_out(40).tolist())) == 5


def test_pictures_come_from_folders_videos_and_scenes(write_folder: Write, tmp_path: Path) -> None:
    labelled = write_folder(items=3)
    loose = tmp_path / "loose" / "deep"
    loose.mkdir(parents=True)
    cv2.imwrite(str(loose / "one.png"), np.full((20, 60, 3), (0, 0, 200), np.uint8))
    video = cv2.VideoWriter(str(loose / "two.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 5, (64, 48))
    for level in (0, 120, 240):
        video.write(np.full((48, 64, 3), level, np.uint8))
    video.release()
    entries = [str(labelled), str(loose.parent), "scenes:2"]
    pictures = read_pictures(entries, (32, 48), captions=True)
    assert pictures.images.shape == (3 + 1 + 3 + 2, 32, 48, 3)
    assert pictures.images[3].reshape(-1, 3).tolist() == [[0, 0, 200]] * (32 * 48)
    assert [round(float(image.mean()) / 120) for image in pictures.images[4:7]] == [0, 1, 2]
    assert pictures.credits == ("street", "loose", "procedural scenes")
    assert pictures.captions[3:7] == ("",) * 4 and all(pictures.captions[7:])
    # Largest first, so a caption of one word names the class of most pixels.
    assert {caption.split(", ")[0] for caption in pictures.captions[:3]} <= {"road", "sky"}
    part = read_pictures([f"{entries[0]}=0.67", "scenes:2=0.1"], (32, 48))
    assert np.array_equal(part.images, pictures.images[[0, 2, 7]])
    few = read_pictures(entries, (32, 48), limit=3)
    assert np.array_equal(few.images, pictures.images[[0, 4, 8]])


def test_written_captions_are_taken_line_by_line(write_folder: Write) -> None:
    root = write_folder(items=3)
    (root / "captions.txt").write_text("a\nb\nc\n")
    assert read_pictures([str(root)], (32, 32), captions=True).captions == ("a", "b", "c")
    (root / "captions.txt").write_text("a\nb\n")
    with pytest.raises(BadInputError, match="2 lines but images/train has 3 pictures"):
        read_pictures([str(root)], (32, 32), captions=True)


def test_captions_become_tokens_of_the_text_tower(tmp_path: Path) -> None:
    path = tmp_path / "clip.safetensors"
    save_checkpoint(path, build_model(micro_config(), seed=0))
    prompts = embed_captions(["a car", "a tree", "", "a car"], str(path), 8)
    assert prompts.table.shape == (3, 1, 16) and prompts.rows.tolist() == [1, 2, 0, 1]
    sizes = prompts.table.square().mean((1, 2))
    torch.testing.assert_close(sizes, torch.ones(3), atol=1e-4, rtol=0)
    assert not torch.equal(prompts.table[1], prompts.table[2])
    assert mirrored("left of it, the leftover") == "right of it, the leftover"
    nothing = embed_captions(["a car"], None, 8)
    assert nothing.table.shape == (1, 1, 8) and not nothing.empty.any()


def test_a_text_tower_decides_the_width_of_the_noise_predictor(
    write_folder: Write, tmp_path: Path
) -> None:
    path = tmp_path / "clip.safetensors"
    save_checkpoint(path, build_model(micro_config(), seed=0))
    output = tmp_path / "run"
    pretrain_diffusion([str(write_folder(items=10))], replace(TINY, text=str(path)), output)
    config = json.loads((output / "unet" / "config.json").read_text())
    assert config["cross_attention_dim"] == 16
    found = load_diffusion(DiffusionSettings(str(output))).empty_prompt
    torch.testing.assert_close(found, embed_captions([], str(path), 0).empty)


def test_heads_and_blocks_are_those_of_the_settings() -> None:
    settings = UNetSettings(widths=(8, 16, 32), attention=(1, 2), head=8, text=12)
    unet = build_unet(settings, 4, (8, 12))
    assert unet.config.down_block_types == (
        "DownBlock2D",
        "CrossAttnDownBlock2D",
        "CrossAttnDownBlock2D",
    )
    attention = unet.down_blocks[2].attentions[0].transformer_blocks[0].attn2
    assert attention.heads == 4 and attention.to_k.in_features == 12


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data", "scenes:many"], "does not say how many scenes.*scenes:2000"),
        (["--data", "scenes:1", "--size", "100x160"], "multiples of 32.*128x160"),
        (["--data", "scenes:1"], "holds 1 pictures"),
        (["--data", "scenes:9=2"], "share '2' in 'scenes:9=2' is not in"),
        (["--data", "nowhere"], "no data set folder 'nowhere'"),
        (["--data", "{empty}"], "holds no picture and no video"),
        (["--data", "{broken}"], "of a kind that OpenCV does not read"),
        (
            [
                "--data",
                "scenes:2",
                "--text",
                "no.safetensors",
                "--vae-steps",
                "1",
                "--unet-steps",
                "1",
            ],
            "no.safetensors does not exist",
        ),
    ],
)
def test_mistakes_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    import re

    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    places = {"empty": tmp_path / "empty", "broken": tmp_path / "broken.mp4"}
    given = [option.format(**places) for option in options]
    assert main(["diffusion", *given, "--output", str(tmp_path / "run"), "--device", "cpu"]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_the_command_line_writes_the_whole_folder(
    write_folder: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    options = [
        "--data",
        str(write_folder(items=6)),
        "--output",
        str(output),
        "--quick",
        "--size",
        "64x64",
        "--vae-steps",
        "1",
        "--unet-steps",
        "1",
        "--threads",
        "1",
        "--device",
        "cpu",
    ]
    assert main(["diffusion", *options]) == 0
    assert {path.name for path in output.iterdir()} == {
        "vae",
        "unet",
        "scheduler",
        "empty_prompt.safetensors",
        "model_index.json",
        "reconstructions.png",
        "samples.png",
        "report.json",
    }
    assert "psnr" in capsys.readouterr().out
    report = json.loads((output / "report.json").read_text())
    assert report["steps"] == {"vae": 1, "unet": 1} and report["settings"]["data"]
    assert main(["diffusion", *options]) == 2 and main(["diffusion", *options, "--resume"]) == 0
