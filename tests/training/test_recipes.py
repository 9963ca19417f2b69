"""The recipes of what ships, from raw material to files, with tiny nets, sets and steps."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from micro import Write, write_net

pytest.importorskip("onnx")
pytest.importorskip("diffusers")

from dedos_deploy.model import build_model, load_checkpoint  # noqa: E402
from dedos_deploy.presets import get_preset  # noqa: E402
from dedos_deploy.training.loop import STATE  # noqa: E402
from dedos_deploy.training.pretraining.diffusion_settings import NanoSettings  # noqa: E402
from dedos_deploy.training.pretraining.text import DistilSettings, write_text_tower  # noqa: E402
from dedos_deploy.training.pretraining.trunk_patches import TrunkSettings  # noqa: E402
from dedos_deploy.training.pretraining.trunk_run import TrunkRun  # noqa: E402
from dedos_deploy.training.pretraining.unet import UNetSettings  # noqa: E402
from dedos_deploy.training.pretraining.vae import VaeSettings  # noqa: E402
from dedos_deploy.training.recipes import continued_nano, embedded_nano, nano_recipe  # noqa: E402
from dedos_deploy.training.recipes.nano_sets import CITY_CREDIT, NETS, PseudoSet  # noqa: E402
from dedos_deploy.training.settings import settings_for  # noqa: E402
from dedos_deploy.training.state import saved_settings  # noqa: E402

SETS = {"scenes_street": 0.5, "street_completed": 1.0, "walk": 2.0}
CONVERTER = "import shutil, sys\nshutil.copy(sys.argv[1], sys.argv[2])\n"

TINY = NanoSettings(
    size_hw=(32, 32),
    minutes=None,
    vae_steps=1,
    unet_steps=1,
    vae=VaeSettings(widths=(16, 16, 16), crop=16, batch=2, whole=0.34),
    unet=UNetSettings(widths=(8, 16), attention=(1,), head=8, batch=2),
    draw_steps=1,
    threads=1,
    amp=False,
    device="cpu",
)


@pytest.fixture
def material(tmp_path: Path, write_folder: Write) -> Path:
    """A folder of raw sets: a labelled one, pictures without labels, and teachers with a converter."""
    walk = write_folder("walk_raw") / "images" / "train"
    (tmp_path / "walk_frames").symlink_to(walk)
    write_folder("street")
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "tflite_to_onnx.py").write_text(CONVERTER)
    for seed, (name, words) in enumerate({"cityscapes": 19, "voc": 21, "imagenet": 9}.items()):
        net = write_net(weights / f"{NETS[name]}.onnx", [1] * 4, seed=seed, words=words)
        net.rename(net.with_suffix(".tflite"))
    return tmp_path


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Makes every part of the recipe a matter of a second; returns what training was asked for."""
    asked: list[dict[str, Any]] = []

    def text(*, preset: str, output: Path, settings: DistilSettings, resume: bool) -> None:
        assert not resume
        tower = build_model(get_preset(preset), seed=3).text_tower
        write_text_tower(output, tower, teacher="a fake", score={})

    def settings(preset: str, data: tuple[str, ...], **given: Any) -> Any:
        asked.append(given)
        fewer = {"size_hw": (64, 64), "steps": 1, "minutes": None, "batch": 2, "warmup": 0}
        return settings_for(preset, data, **{**given, **fewer})

    def export(source: Any, dest: Path, *, options: Any) -> SimpleNamespace:
        dest.write_bytes(b"a bundle")
        return SimpleNamespace(path=dest, size=8)

    sets = (
        PseudoSet(
            "walk",
            ("walk_frames",),
            ("cityscapes", "voc"),
            ("Walk (CC0)",),
            step=2,
            confidence=0.01,
        ),
        PseudoSet(
            "street_completed",
            ("street",),
            ("cityscapes",),
            ("Street",),
            complete="train",
            confidence=0.01,
        ),
    )
    trunk = TrunkSettings(minutes=None, steps=1, batch=2, sizes=((32, 48),), warmup=0, held_out=4)
    for module, name, value in (
        (nano_recipe, "SCENES", {"scenes_street": ("street", 2)}),
        (nano_recipe, "VAL_SCENES", 1),
        (nano_recipe, "PSEUDO_SETS", sets),
        (nano_recipe, "LOOKED_AT_PX", 65),
        (nano_recipe, "run_text", text),
        (nano_recipe, "TrunkSettings", lambda minutes, **given: replace(trunk, **given)),
        # Its detail branch takes the weights of one published net alone.
        (
            nano_recipe,
            "TrunkRun",
            lambda **given: TrunkRun(**{**given, "detail": None, "channels": (3, 4)}),
        ),
        (nano_recipe, "NanoSettings", lambda *, text, **_: replace(TINY, text=text)),
        (nano_recipe, "settings_for", settings),
        (embedded_nano, "SHARES", SETS),
        (embedded_nano, "PRETRAINING", {"walk": 2.0, "street_completed": 1.0}),
        (embedded_nano, "export_bundle", export),
    ):
        monkeypatch.setattr(module, name, value)
    return asked


Recipe = Callable[..., object]


@pytest.fixture
def recipe(material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Recipe]:
    """Runs the recipe of a module from `material`, in work/ and assets/, and returns its exit code."""
    folders = {"material": material, "work": tmp_path / "work", "assets": tmp_path / "assets"}
    command = [text for name, folder in folders.items() for text in (f"--{name}", str(folder))]

    def run(module: ModuleType, *options: str) -> object:
        monkeypatch.setattr(sys, "argv", ["recipe", *command, "--threads", "1", *options])
        with pytest.raises(SystemExit) as done:
            module.main()
        return done.value.code

    before = torch.get_num_threads()
    yield run
    torch.set_num_threads(before)


def made(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_the_embedded_model_is_made_from_raw_material_and_only_once(
    recipe: Recipe,
    tiny: list[dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    work, assets = tmp_path / "work", tmp_path / "assets"
    assert recipe(embedded_nano) == 0, capsys.readouterr().err
    _, record = load_checkpoint(assets / "nano.safetensors")
    assert {"road", "person"} <= set(record["words"]) and record["licence"] == embedded_nano.LICENCE
    assert {"Walk (CC0)", "Street", "Text teacher: a fake", CITY_CREDIT} <= set(record["sources"])
    assert (assets / "demo.dedos").read_bytes() == b"a bundle"
    coarse, fine = tiny
    assert coarse["clip_weights"] == str(work / "trunk" / "start.safetensors")
    assert fine["init"] == str(work / "run" / "checkpoint.safetensors")
    assert coarse["diffusion"] == fine["diffusion"] == str(work / "diffusion")
    assert coarse["component"] == fine["component"] == "V"
    report = json.loads((work / "trunk" / "report.json").read_bytes())
    assert report["settings"]["darken"] == coarse["darken"] == fine["darken"] == nano_recipe.DARKEN
    assert fine["size_hw"] == (352, 480) and coarse["kinds"] == fine["kinds"] == ("cyclist=person",)
    assert coarse["rare"] == 0.5 and coarse["paste"] == 0.3 and fine["balance"] == 0.8
    first = made(work)
    assert recipe(embedded_nano) == 0 and made(work) == first
    monkeypatch.setattr(nano_recipe, "DARKEN", 2.0)
    assert recipe(embedded_nano) == 2 and made(work) == first
    assert f"{work / 'trunk'} was made by other rules than these" in capsys.readouterr().err


def test_the_embedded_model_can_be_made_without_a_set_and_without_a_diffusion(
    recipe: Recipe,
    tiny: list[dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    work, assets = tmp_path / "work", tmp_path / "assets"
    with_hall = {**SETS, "scenes_hall": 0.35}
    monkeypatch.setattr(embedded_nano, "SHARES", with_hall)
    scenes = {"scenes_street": ("street", 2), "scenes_hall": ("hall", 2)}
    monkeypatch.setattr(nano_recipe, "SCENES", scenes)
    assert recipe(embedded_nano, "--diffusion-minutes", "0", "--without", "walk") == 0
    assert not (work / "diffusion").exists()
    _, record = load_checkpoint(assets / "nano.safetensors")
    assert "Walk (CC0)" not in record["sources"] and "pillar" in record["words"]
    coarse, fine = tiny
    assert coarse["component"] == fine["component"] == "V0" and "diffusion" not in coarse
    assert coarse["clip_weights"] == str(work / "trunk_without_walk" / "start.safetensors")
    assert fine["init"] == str(work / "run_without_walk" / "checkpoint.safetensors")
    shown = json.loads(saved_settings(work / "run_without_walk" / STATE))["data"]
    assert f"{work / 'scenes_hall'}=1" in shown and not any("walk=" in name for name in shown)
    assert set(embedded_nano.HALL_KINDS) < set(coarse["kinds"]) == set(fine["kinds"])
    # With a diffusion it is another run, which must not take this one's result for its own.
    (work / "diffusion_without_walk").mkdir()
    (work / "diffusion_without_walk" / "report.json").write_text("{}")
    assert recipe(embedded_nano, "--without", "walk") == 2
    assert "run_without_walk was made by other rules than these" in capsys.readouterr().err


def test_what_is_missing_is_one_sentence(
    tmp_path: Path, tiny: list[dict[str, Any]], material: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (tmp_path / "walk_frames").iterdir():
        path.unlink()
    recipe = nano_recipe.Recipe(material, tmp_path / "work", 1)
    assert nano_recipe.run_recipe(recipe.make_nets) == 0
    assert nano_recipe.run_recipe(recipe.make_pseudo_labels) == 2
    assert "walk_frames' holds no image" in capsys.readouterr().err


def test_pictures_that_were_labelled_by_other_rules_are_refused(
    material: Path,
    tiny: list[dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe = nano_recipe.Recipe(material, tmp_path / "work", 1)
    assert nano_recipe.run_recipe(recipe.make_nets) == 0
    assert nano_recipe.run_recipe(recipe.make_pseudo_labels) == 0
    before = made(tmp_path / "work")
    assert nano_recipe.run_recipe(recipe.make_pseudo_labels) == 0
    walk, street = nano_recipe.PSEUDO_SETS
    monkeypatch.setattr(nano_recipe, "PSEUDO_SETS", (walk, replace(street, confidence=0.9)))
    assert nano_recipe.run_recipe(recipe.make_pseudo_labels) == 2
    assert "street_completed was made by other rules" in capsys.readouterr().err
    assert made(tmp_path / "work") == before


def test_the_embedded_model_goes_on_without_trunk_and_diffusion(
    recipe: Recipe, tiny: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, assets = tmp_path / "work", tmp_path / "assets"
    monkeypatch.setattr(continued_nano, "SHARES", SETS)
    assert recipe(continued_nano, "--steps", "7", "--balanced-steps", "9") == 0
    assert {path.name for path in work.iterdir()} == {
        *("nets", "scenes_street", "street_completed", "walk", "continued", "continued_balanced")
    }
    _, record = load_checkpoint(assets / "nano.safetensors")
    assert {"Walk (CC0)", "Street", CITY_CREDIT} <= set(record["sources"])
    first, second = tiny
    assert (first["init"], first["rare"], first["size_hw"]) == ("embedded", 0.5, (352, 480))
    assert second["init"] == str(work / "continued" / "checkpoint.safetensors")
    assert "diffusion" not in first and (first["steps"], second["steps"]) == (7, 9)
    assert second["balance"] > first["balance"]
