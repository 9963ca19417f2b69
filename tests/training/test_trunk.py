"""Trunk distillation: where a net's cells look, whitening, crops, learning, and the probe."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch
from micro import write_net
from safetensors.torch import load_file

from dedos_deploy.cli.train import main
from dedos_deploy.errors import BadInputError
from dedos_deploy.model import build_model, load_checkpoint
from dedos_deploy.presets import get_preset
from dedos_deploy.progress import Progress
from dedos_deploy.training.folders import LabelFolder, open_folder
from dedos_deploy.training.pretraining import teacher_features as features
from dedos_deploy.training.pretraining import trunk_patches as patches
from dedos_deploy.training.pretraining.text import write_text_tower
from dedos_deploy.training.pretraining.trunk_distillation import TrunkDistillation
from dedos_deploy.training.probe import linear_probe

SIDE = 65


pytestmark = pytest.mark.usefixtures("one_thread_each")


def write_folder(root: Path, count: int = 4, *, splits: tuple[str, ...] = ("train",)) -> Path:
    """Bright and dark halves under the words `snow` and `road`, on either side of some border."""
    random = np.random.default_rng(7)
    for split in splits:
        for index in range(count):
            labels = np.full((48, SIDE), index % 2, np.uint8)
            labels[:, int(random.integers(20, 44)) :] = 1 - index % 2
            image = np.where(labels[..., None] == 1, 60, 200) + random.integers(
                0, 40, (48, SIDE, 3)
            )
            for part, name, value in (
                ("images", f"{index}.png", image),
                ("labels", f"{index}.png", labels),
            ):
                (root / part / split).mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(root / part / split / name), value.astype(np.uint8))
    (root / "classes.txt").write_text("snow\nroad\n")
    return root


@pytest.mark.parametrize(("pads", "offset"), [([1, 1, 1, 1], 0.0), ([0, 0, 1, 1], 3.0)])
def test_cells_look_where_they_are_said_to(tmp_path: Path, pads: list[int], offset: float) -> None:
    teacher = features.FeatureTeacher(write_net(tmp_path / "net.onnx", pads), side_px=SIDE)
    middle, late = teacher.layers
    assert (middle.name, middle.late, late.name, late.late) == (
        "net.middle",
        False,
        "net.late",
        True,
    )
    assert (late.stride, late.offset) == (middle.stride, middle.offset) == (4, offset)
    # An average of a ramp is the ramp at the centre, so the net itself says where it looks.
    ramp = np.broadcast_to(np.arange(SIDE, dtype=np.uint8)[None, :, None], (49, SIDE, 3)).copy()
    cells = teacher.maps(ramp)[1][0, 6, 2:-2]
    looked = 2.0 * (late.stride * np.arange(2, 2 + len(cells)) + late.offset)  # the sum doubles
    assert cells == pytest.approx(looked, abs=1e-3)


def test_what_is_no_net_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "no.onnx"
    path.write_bytes(b"nothing")
    with pytest.raises(BadInputError, match="is no ONNX net"):
        features.FeatureTeacher(path)
    net = onnx.load(write_net(path, [1] * 4))
    del net.graph.output[0]
    onnx.save(net, path)
    with pytest.raises(BadInputError, match="no output `features` or no residual sums"):
        features.FeatureTeacher(path)


def test_whitened_channels_have_unit_variance_and_survive_the_code() -> None:
    random = np.random.default_rng(0)
    mixing = random.normal(size=(6, 6)) * np.array([3, 2, 1, 0.5, 0.01, 0.01])
    samples = (random.normal(size=(4000, 6)) @ mixing.T + 5).astype(np.float32)
    space = features.FeatureSpace.of(samples, 3)
    white = (samples - space.mean) @ space.matrix
    assert np.cov(white.T) == pytest.approx(np.eye(3), abs=0.01)
    values = np.linalg.eigvalsh(np.cov(samples.T, bias=True))[::-1]
    assert space.explained == pytest.approx(values[:3].sum() / values.sum(), abs=1e-4)
    grid = samples[:12].T.reshape(6, 3, 4)
    code = space.encode(grid) / features.LEVELS
    inside = np.abs(white[:12]) < 3.9
    error = np.abs(code.reshape(3, -1).T - white[:12])
    assert error[inside].max() <= 0.5 / features.LEVELS + 1e-4


@pytest.fixture
def store(tmp_path: Path) -> features.FeatureStore:
    teacher = features.FeatureTeacher(
        write_net(tmp_path / "net.onnx", [1] * 4, seed=1), side_px=SIDE
    )
    return features.FeatureStore(tmp_path / "features", [teacher], channels=(3, 4))


@pytest.fixture
def folder(tmp_path: Path) -> LabelFolder:
    return open_folder(str(write_folder(tmp_path / "data")))


ITEMS = [(0, 0), (0, 1), (0, 2), (0, 3)]


def test_codes_are_made_once_and_damage_is_named(
    store: features.FeatureStore, folder: LabelFolder, tmp_path: Path
) -> None:
    readers = patches.readers([folder], ITEMS)
    store.fill(readers[:2], sampled=2)
    first = {p: p.stat().st_mtime_ns for p in store.folder.iterdir()}
    store.fill(readers)
    files = list(store.folder.iterdir())
    assert len(files) == 5 and all(p.stat().st_mtime_ns == first[p] for p in first)
    codes = store.read(readers[3]())
    assert [code.dtype for code in codes] == [np.int8] * 2
    assert [code.shape[0] for code in codes] == [3, 4]
    other = features.FeatureStore(store.folder, store.teachers, channels=(2, 4))
    with pytest.raises(BadInputError, match="made by other nets or settings"):
        other.fill(readers[:1])
    for file in files:
        file.write_bytes(b"damaged")
    with pytest.raises(BadInputError, match="holds no features of these nets"):
        store.read(readers[3]())


@pytest.mark.parametrize("mirrored", [False, True])
def test_activations_lie_under_the_crop(mirrored: bool) -> None:
    # Cells that say where they are, in units that int8 holds: pixel / 32.
    layer = features.FeatureLayer("n.late", "features", True, 4, 3.0)
    centres = 4 * np.arange(17) + 3.0
    code = np.broadcast_to(centres[None, None, :], (1, 13, 17)).round().astype(np.int8)
    window = patches.Window(0, 16, 48, 32, mirrored)
    found = patches.sampled(code, layer, window, (49, SIDE), (2, 4), SIDE)[:, 0]
    expected = 16 + 32 * (np.arange(4) + 0.5) / 4 - 0.5
    rows = (found * features.LEVELS).reshape(2, 4).numpy()
    assert rows == pytest.approx(np.stack([expected[:: -1 if mirrored else 1]] * 2), abs=0.3)


def test_crops_repeat_and_labels_move_with_the_picture(
    store: features.FeatureStore, folder: LabelFolder
) -> None:
    store.fill(patches.readers([folder], ITEMS))
    settings = patches.TrunkSettings(minutes=None, steps=2, batch=3, sizes=((32, 48),))
    stream = patches.PatchStream([folder], ITEMS, store, settings, 16)
    first, again, other = stream.batch(5), stream.batch(5), stream.batch(6)
    assert torch.equal(first.images, again.images) and torch.equal(first.labels, again.labels)
    assert not torch.equal(first.images, other.images)
    assert [tuple(t.shape) for t in first.targets] == [(3, 6, 3), (3, 6, 4)]
    bright = first.images.float().mean(-1) > 135
    assert (bright == (first.labels == 0)).float().mean() > 0.95
    assert first.annotated.all() and first.annotated.shape == (3, 2)


def test_crops_are_darkened_and_what_teachers_saw_is_not(
    store: features.FeatureStore, folder: LabelFolder
) -> None:
    store.fill(patches.readers([folder], ITEMS))
    plain = patches.TrunkSettings(minutes=None, steps=2, batch=1, sizes=((32, 48),))
    seen, dark = (
        patches.PatchStream([folder], ITEMS, store, settings, 16).batch(5)
        for settings in (plain, replace(plain, darken=8.0))
    )
    assert dark.images.float().mean() < 0.4 * seen.images.float().mean()
    assert torch.equal(dark.labels, seen.labels)
    assert all(map(torch.equal, dark.targets, seen.targets))


def test_settings_without_an_end_or_sense_are_refused() -> None:
    with pytest.raises(BadInputError, match="needs an end; give --minutes, --steps"):
        patches.TrunkSettings(minutes=None)
    with pytest.raises(BadInputError, match="batch is 0, but must be more than 0"):
        patches.TrunkSettings(batch=0)
    with pytest.raises(BadInputError, match="darken is -1"):
        patches.TrunkSettings(darken=-1)
    with pytest.raises(BadInputError, match="must rise from at least 1"):
        patches.TrunkSettings(zoom=(0.5, 2.0))
    for held_out in (1, -3):
        with pytest.raises(BadInputError, match=f"held_out is {held_out}, .*2 or more"):
            patches.TrunkSettings(held_out=held_out)


def test_the_trunk_learns_and_nothing_else_changes(
    store: features.FeatureStore, folder: LabelFolder, tmp_path: Path
) -> None:
    store.fill(patches.readers([folder], ITEMS))
    settings = patches.TrunkSettings(
        minutes=None, steps=8, batch=2, sizes=((32, 48),), warmup=1, held_out=0
    )
    model = build_model(get_preset("nano"), seed=0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    stream = patches.PatchStream([folder], ITEMS, store, settings, 16)
    distillation = TrunkDistillation(model, store, stream)
    assert distillation.blocks == (3, 5)
    losses: list[float] = []
    loop = distillation._loop(tmp_path / "state.safetensors")
    loop.run(
        lambda step: (distillation.losses(stream.batch(0))[0], {}),
        lambda report: losses.append(report.loss),
    )
    assert losses[-1] < 0.8 * losses[0]
    changed = {
        n.split(".")[0] for n, v in model.state_dict().items() if not torch.equal(v, before[n])
    }
    assert changed == {"trunk"}


class Steps(Progress):
    """Keeps the steps it is told of, and sends Ctrl-C to this process at one of them."""

    def __init__(self, last: str = "") -> None:
        self.told: list[str] = []
        self._last = last

    def reached(self, fraction: float, text: str) -> None:
        self.told.append(text.split(", ")[1])
        if self.told[-1] == self._last:
            os.kill(os.getpid(), signal.SIGINT)


def test_an_interrupted_trunk_ends_as_the_uninterrupted_one(
    store: features.FeatureStore, folder: LabelFolder, tmp_path: Path
) -> None:
    store.fill(patches.readers([folder], ITEMS))
    settings = patches.TrunkSettings(
        minutes=None, steps=4, batch=2, sizes=((32, 48),), warmup=1, held_out=0
    )

    def distillation(seed: int = 0) -> TrunkDistillation:
        stream = patches.PatchStream([folder], ITEMS, store, settings, 16)
        return TrunkDistillation(build_model(get_preset("nano"), seed=seed), store, stream)

    steps, stop = Steps(), Steps("step 2")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    distillation().run(whole, {})
    with pytest.raises(KeyboardInterrupt):
        distillation().run(parts, {}, stop)
    assert load_checkpoint(parts / "start.safetensors", preset="nano")[1]["step"] == 2
    with pytest.raises(BadInputError, match="other settings or data"):
        distillation(seed=1).run(parts, {}, resume=True)
    first, second = (folder.items[item][1] for item in (0, 1))
    kept = first.read_bytes()
    first.write_bytes(second.read_bytes())
    with pytest.raises(BadInputError, match="other settings or data"):
        distillation().run(parts, {}, resume=True)
    first.write_bytes(kept)
    distillation().run(parts, {}, steps, resume=True)
    assert steps.told == ["step 3", "step 4"]
    for name in ("start.safetensors", "state.safetensors"):
        one, two = load_file(whole / name), load_file(parts / name)
        assert all(torch.equal(one[key], two[key]) for key in one)


def test_the_probe_finds_what_a_trunk_can_tell(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "data", 8, splits=("train", "val"))
    train, val = open_folder(str(root)), open_folder(str(root), split="val")
    model = build_model(get_preset("nano"), seed=0)
    assert linear_probe(model, train, val, (48, 64)).miou_present > 0.8
    with torch.no_grad():
        model.trunk.patch_embedding.conv.weight.zero_()  # a blind trunk
    assert linear_probe(model, train, val, (48, 64)).miou_present < 0.6
    other = open_folder(str(write_folder(tmp_path / "other")))
    object.__setattr__(other, "words", ("sky", "sea"))
    with pytest.raises(BadInputError, match="name different classes"):
        linear_probe(model, train, other, (48, 64))


def test_one_command_writes_a_start_for_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_folder(tmp_path / "data", 4, splits=("train", "val"))
    (data / "credits.txt").write_text("Halves (CC0)\n")
    tower = build_model(get_preset("nano"), seed=3).text_tower
    text = tmp_path / "tower.safetensors"
    write_text_tower(text, tower, teacher="a fake", score={})
    net = write_net(tmp_path / "net.onnx", [1] * 4, seed=1)
    output = tmp_path / "run"
    options = ["trunk", "--data", str(data), "--teacher", str(net), "--text", str(text)]
    options += ["--output", str(output), "--steps", "2", "--batch", "2", "--sizes", "32x48"]
    options += ["--channels", "3", "4", "--probe", str(data)]
    assert main(options) == 0
    model, record = load_checkpoint(output / "start.safetensors", preset="nano")
    assert torch.equal(model.text_tower.token_embedding.weight, tower.token_embedding.weight)
    assert record["sources"] == ["Text teacher: a fake", "Halves (CC0)", "Features of net.onnx"]
    assert (output / "report.json").is_file() and len(list((output / "features").iterdir())) == 5
    # What is only there to go on with is gone when nothing is left to do.
    assert not (output / "state.safetensors").exists()
    assert main([*options, "--resume"]) == 2
    assert "there is nothing to resume" in capsys.readouterr().err
