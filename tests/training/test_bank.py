"""The three fillings of the proxy bank, from training to the exported graph."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from denoiser import CHANNELS, TinyDenoiser
from micro import Write, micro_config
from tiny_diffusion import write_tiny_diffusion
from torch import Tensor

from dedos_deploy.cli.train import main
from dedos_deploy.errors import BadInputError
from dedos_deploy.model import Dedos, build_model, freeze, load_checkpoint, save_checkpoint
from dedos_deploy.model.proxy_queries import BankFill
from dedos_deploy.training.bank import CalibrationImages, calibrate_bank, fill_bank
from dedos_deploy.training.calibration import calibrate_run, compare_fillings, fill_run, open_run
from dedos_deploy.training.denoising import DenoisingLearning, LearningSource, save_learning
from dedos_deploy.training.diffusion.walk import DiffusionSettings, load_diffusion
from dedos_deploy.training.folders import open_folder

SOURCE = LearningSource({"model": "tiny"}, "tiny")
SIZE_HW = (32, 32)


@pytest.fixture
def model() -> Dedos:
    model = build_model(micro_config(), seed=1)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


@pytest.fixture
def learning() -> DenoisingLearning:
    torch.manual_seed(0)
    learning = DenoisingLearning(micro_config(), CHANNELS, steps=3)
    for parameter in learning.reader.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    learning.update_mean(torch.randn(3, 6, 16))
    return learning


def images(count: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (count, 24, 32, 3), generator=generator, dtype=torch.uint8)


def fill(model: Dedos, learning: DenoisingLearning, kind: BankFill) -> Tensor:
    """Fill the bank and return the Q that it must hold."""
    proxy = model.proxy_queries
    if kind == "calibrated":
        stages = calibrate_bank(model, learning, TinyDenoiser(), [images()], 5, size_hw=SIZE_HW)
        proxy.fill_bank(stages, kind)
    else:
        fill_bank(model, learning, kind)
        stages = proxy.stage_queries() if kind == "static" else learning.stage_mean
    return proxy.global_queries(stages).detach()


@pytest.mark.parametrize("kind", ["static", "ema", "calibrated"])
def test_fillings_reach_the_frozen_graph(
    model: Dedos, learning: DenoisingLearning, kind: BankFill
) -> None:
    expected = fill(model, learning, kind)
    assert model.proxy_queries.fill == kind
    torch.testing.assert_close(model.proxy_queries(), expected)
    text = torch.nn.functional.normalize(torch.randn(3, 16), dim=-1)
    valid, frames = torch.ones(3), images(2)
    frozen = freeze(model, size_hw=(24, 32))
    with torch.no_grad():
        eager = model.predict(frames, text, valid, proxy=expected)
        scores = model(frames, text, valid)
        torch.testing.assert_close(frozen(frames, text, valid), scores, atol=1e-4, rtol=1e-3)
        again = model.predict(frames, text, valid)
    torch.testing.assert_close(eager.class_logits, again.class_logits)
    if kind != "static":
        fill_bank(model, learning, "static")
        with torch.no_grad():
            assert not torch.allclose(model(frames, text, valid), scores, atol=1e-4)


def test_an_exported_graph_holds_the_calibrated_bank() -> None:
    import onnxruntime

    from dedos_deploy.export.graph import image_graph
    from dedos_deploy.spec import GraphSpec

    # Tracing takes seconds per layer, so only the parts that read the bank are left in.
    full = micro_config()
    small = replace(
        full,
        clip=replace(full.clip, layers=2),
        decoder_layers=1,
        detail_width=0,
        aggregation="none",
        text_blocks=0,
    )
    model = build_model(small, seed=1)
    torch.nn.init.normal_(model.refinement.fuse.weight, std=0.2)  # type: ignore[union-attr, arg-type]
    learning = DenoisingLearning(small, CHANNELS, steps=3)
    fill(model, learning, "calibrated")
    graph = image_graph(freeze(model, size_hw=(16, 16)), GraphSpec(16, 16, 16))
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    text = torch.nn.functional.normalize(torch.randn(3, 16), dim=-1)
    frame = torch.randint(0, 256, (1, 16, 16, 3), dtype=torch.uint8)
    feeds = {"image": frame.numpy(), "text": text.numpy(), "valid": np.ones(3, np.float32)}
    with torch.no_grad():
        expected = model(frame, text, torch.ones(3)).numpy()
        model.proxy_queries.bank.mul_(-1)
        other = model(frame, text, torch.ones(3)).numpy()
    np.testing.assert_allclose(session.run(None, feeds)[0], expected, atol=1e-4)
    assert np.abs(other - expected).max() > 1e-2


def test_filled_checkpoint_comes_back(
    tmp_path: Path, model: Dedos, learning: DenoisingLearning
) -> None:
    expected = fill(model, learning, "ema")
    save_checkpoint(tmp_path / "c.safetensors", model)
    loaded, _ = load_checkpoint(tmp_path / "c.safetensors")
    assert loaded.proxy_queries.fill == "ema"
    torch.testing.assert_close(loaded.proxy_queries(), expected)


def test_ema_needs_denoised_images(model: Dedos, learning: DenoisingLearning) -> None:
    learning.count.zero_()
    for nothing in (learning, None):
        with pytest.raises(BadInputError, match="denoised no image; train with --diffusion"):
            fill_bank(model, nothing, "ema")
    fill_bank(model, None, "static")


def test_calibration_is_the_mean_over_images(model: Dedos, learning: DenoisingLearning) -> None:
    denoiser, pictures = TinyDenoiser(), images()
    queries = model.proxy_queries.stage_queries()
    each = [
        learning.reader(queries, denoiser.denoise(denoiser.encode(pictures[i : i + 1])).features)[0]
        for i in range(5)
    ]
    expected = sum(stages.detach().double() for stages in each) / 5
    found = calibrate_bank(model, learning, denoiser, pictures.split(2), 5, size_hw=SIZE_HW)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-4)
    turned = calibrate_bank(model, learning, denoiser, [pictures.flip(0)], 5, size_hw=SIZE_HW)
    torch.testing.assert_close(turned, found)
    assert not found.requires_grad


def test_calibration_stops_at_its_count_and_restores_the_mode(
    model: Dedos, learning: DenoisingLearning
) -> None:
    denoiser = TinyDenoiser()
    learning.train()
    found = calibrate_bank(model, learning, denoiser, images().split(2), 3, size_hw=SIZE_HW)
    assert denoiser.seen == 3 and learning.training
    torch.testing.assert_close(
        found, calibrate_bank(model, learning, denoiser, [images(3)], 3, size_hw=SIZE_HW)
    )


def test_calibration_is_not_random(model: Dedos) -> None:
    learning = DenoisingLearning(micro_config(), CHANNELS, steps=3, mask_map="random").train()
    torch.nn.init.normal_(learning.reader.layers[0].value.weight)  # type: ignore[union-attr, arg-type]
    first, second = (
        calibrate_bank(model, learning, TinyDenoiser(), [images()], 5, size_hw=SIZE_HW)
        for _ in range(2)
    )
    assert torch.equal(first, second)


def test_calibration_refuses_what_cannot_be(model: Dedos, learning: DenoisingLearning) -> None:
    with pytest.raises(BadInputError, match="asked for 6 images and found 5; give more --data"):
        calibrate_bank(model, learning, TinyDenoiser(), [images()], 6, size_hw=SIZE_HW)
    with pytest.raises(BadInputError, match=r"channels, but the run learned on \(6, 10, 6\)"):
        other = TinyDenoiser(channels=(6, 10))
        calibrate_bank(model, learning, other, [images()], 5, size_hw=SIZE_HW)


def test_calibration_images_are_spread_and_hashed(write_folder: Write) -> None:
    folders = [open_folder(str(write_folder("a"))), open_folder(str(write_folder("b")))]
    chosen = CalibrationImages(folders, 4)
    names = [f"{path.parents[2].name}/{path.stem}" for path in chosen.paths]
    assert names == ["a/000", "a/003", "b/000", "b/003"]
    read = list(chosen)
    assert [tuple(image.shape) for image in read] == [(1, 36, 48, 3)] * 4
    first = chosen.sha256
    list(chosen)
    assert chosen.sha256 == first  # a second pass starts anew
    image = cv2.imread(str(chosen.paths[2]))
    image[0, 0, 0] ^= 1
    cv2.imwrite(str(chosen.paths[2]), image)
    list(chosen)
    assert chosen.sha256 != first
    assert CalibrationImages(folders, 100).count == 12
    chosen.paths[1].write_bytes(b"no image")
    with pytest.raises(BadInputError, match="003.png' cannot be read"):
        list(chosen)


@pytest.fixture
def run(tmp_path: Path, write_folder: Write, model: Dedos, learning: DenoisingLearning) -> Path:
    """A run's output folder, as the trainer leaves it."""
    write_folder("street", split="val")
    for name in ("images", "labels"):
        (tmp_path / "street" / name / "train").mkdir()
        for file in (tmp_path / "street" / name / "val").iterdir():
            (tmp_path / "street" / name / "train" / file.name).write_bytes(file.read_bytes())
    folder = tmp_path / "run"
    folder.mkdir()
    extra = {"settings": {"data": [f"{tmp_path / 'street'}=2"]}, "words": ["road"]}
    fill_bank(model, learning, "ema")
    save_checkpoint(folder / "checkpoint.safetensors", model, extra=extra)
    save_learning(folder / "learning.safetensors", learning, SOURCE)
    return folder


def test_a_run_is_calibrated_compared_and_saved(run: Path) -> None:
    opened = open_run(run)
    calibrated = calibrate_run(opened, TinyDenoiser(), opened.folders("train"), 4)
    results = list(compare_fillings(opened, opened.folders("val"), calibrated))
    assert [kind for kind, _ in results] == ["static", "ema", "calibrated"]
    assert all(0 <= result.miou_present <= 1 and result.images == 6 for _, result in results)
    opened.save(fill_run(opened, "calibrated", calibrated))
    model, extra = load_checkpoint(run / "checkpoint.safetensors")
    assert model.proxy_queries.fill == "calibrated" and extra["words"] == ["road"]
    bank = extra["bank"]
    assert (bank["fill"], bank["images"], bank["data"]) == ("calibrated", 4, ["street"])
    assert len(bank["data_sha256"]) == 64
    expected = model.proxy_queries.global_queries(calibrated.stages)
    torch.testing.assert_close(model.proxy_queries(), expected)


def test_another_diffusion_is_refused(run: Path) -> None:
    opened = open_run(run)
    other = TinyDenoiser(fingerprint="other")
    with pytest.raises(BadInputError, match="not the one that run .* give that one with --diffu"):
        calibrate_run(opened, other, opened.folders("train"), 4)


def test_files_of_two_runs_are_refused(run: Path, learning: DenoisingLearning) -> None:
    other = replace(micro_config(), text_blocks=2)
    save_checkpoint(run / "checkpoint.safetensors", build_model(other))
    with pytest.raises(BadInputError, match="belongs to another model .* both files of one run"):
        open_run(run)


def test_command_calibrates_and_compares_with_a_diffusion_model(
    tmp_path: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = DiffusionSettings(str(write_tiny_diffusion(tmp_path / "sd")), size_hw=(16, 24))
    diffusion = load_diffusion(settings)
    learning = DenoisingLearning(micro_config(), diffusion.channels, steps=3)
    learning.update_mean(torch.randn(3, 6, 16))
    source = LearningSource(asdict(settings), diffusion.fingerprint)
    save_learning(run / "learning.safetensors", learning, source)
    assert main(["calibrate-bank", str(run), "--images", "3"]) == 0
    model, extra = load_checkpoint(run / "checkpoint.safetensors")
    bank = extra["bank"]
    assert (model.proxy_queries.fill, bank["images"]) == ("calibrated", 3)
    assert bank["diffusion_fingerprint"] == diffusion.fingerprint

    before = (run / "checkpoint.safetensors").read_bytes()
    moved = (tmp_path / "sd").rename(tmp_path / "elsewhere")
    capsys.readouterr()
    assert main(["calibrate-bank", str(run), "--images", "3"]) == 2
    assert "sd" in capsys.readouterr().err
    assert (
        main(["calibrate-bank", str(run), "--images", "3", "--compare", "--diffusion", str(moved)])
        == 0
    )
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["filling", "static", "ema", "calibrated"]
    assert (run / "checkpoint.safetensors").read_bytes() == before

    other = write_tiny_diffusion(tmp_path / "other", seed=1)
    assert main(["calibrate-bank", str(run), "--images", "3", "--diffusion", str(other)]) == 2
    assert "is not the one that run" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["static", "ema"])
def test_command_fills_without_diffusion(
    run: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["calibrate-bank", str(run), "--fill", kind]) == 0
    assert f"with the {kind} bank" in capsys.readouterr().err
    model, extra = load_checkpoint(run / "checkpoint.safetensors")
    assert model.proxy_queries.fill == kind and extra["bank"] == {"fill": kind}


def test_command_says_what_a_run_lacks(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (run / "checkpoint.safetensors").read_bytes()
    (run / "learning.safetensors").unlink()
    for options in (["--fill", "ema"], ["--compare"], []):
        assert main(["calibrate-bank", str(run), *options]) == 2
        assert "its bank can only be static" in capsys.readouterr().err
    assert (run / "checkpoint.safetensors").read_bytes() == before
    assert main(["calibrate-bank", str(run), "--fill", "static"]) == 0
    assert main(["calibrate-bank", str(run), "--images", "0"]) == 2
    assert "at least 1 image" in capsys.readouterr().err
    assert main(["calibrate-bank", str(run / "none")]) == 2
    assert "checkpoint.safetensors does not exist" in capsys.readouterr().err


def test_data_of_a_run_that_moved(run: Path) -> None:
    opened = open_run(run)
    with pytest.raises(BadInputError, match="there is no data set folder 'gone'"):
        opened.folders("train", ["gone"])
    with pytest.raises(BadInputError, match="has a split 'test'; give --data"):
        opened.folders("test")
    opened.extra.pop("settings")
    with pytest.raises(BadInputError, match="does not say what it was trained on; give --data"):
        opened.folders("train")
