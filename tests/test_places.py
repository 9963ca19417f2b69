"""Nothing of the user's is destroyed: what is read is never written, nor one output by another."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from dedos_deploy.assets import assets_path
from dedos_deploy.cli import eval as eval_cli
from dedos_deploy.cli import export as export_cli
from dedos_deploy.cli import run as run_cli
from dedos_deploy.cli import train as train_cli
from dedos_deploy.errors import BadInputError
from dedos_deploy.places import ALL, Read, Written, check_apart


def picture(path: Path, channels: int = 3) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.zeros((48, 64, channels), np.uint8))
    return path


def state(folder: Path) -> dict[str, str]:
    """Everything in a folder: where links lead to, and what files hold."""
    return {
        str(path.relative_to(folder)): os.readlink(path)
        if path.is_symlink()
        else ("folder" if path.is_dir() else hashlib.sha256(path.read_bytes()).hexdigest())
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with what a user may have."""
    for name in ("pics/a.png", "pics/b.png", "set/images/val/a.png", "elsewhere/c.png"):
        picture(tmp_path / name)
    picture(tmp_path / "pics/more/d.png")
    picture(tmp_path / "set/labels/val/a.png", channels=1)
    for name in ("film.mp4", "drive.mcap", "words.txt", "weights.safetensors", "drive/x.db3"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "drive/metadata.yaml").write_text("bag")
    (tmp_path / "set/classes.txt").write_text("road\n")
    (tmp_path / "model").mkdir()
    (tmp_path / "model/manifest.json").write_text("{}")
    shutil.copy(assets_path("demo.dedos"), tmp_path / "street.dedos")
    os.symlink("film.mp4", tmp_path / "link.mp4")
    os.link(tmp_path / "film.mp4", tmp_path / "hard.mp4")
    os.symlink(tmp_path / "elsewhere/c.png", tmp_path / "pics/c.png")
    os.symlink(tmp_path / "pics", tmp_path / "also")
    monkeypatch.chdir(tmp_path)
    return tmp_path


FILM = "--source film.mp4 --classes road"
PICS = "--source pics --classes road"
LOST = "which would be lost"
ONE_PLACE = "are one place, where each would destroy the other"
RUN = {
    "itself": (f"{FILM} --output film.mp4", LOST),
    "dot": (f"{FILM} --output ./film.mp4", LOST),
    "around": (f"{FILM} --output pics/../film.mp4", LOST),
    "absolute": (f"{FILM} --output {{}}/film.mp4", LOST),
    "link to it": (f"{FILM} --output link.mp4", LOST),
    "from a link": ("--source link.mp4 --classes road --output film.mp4", LOST),
    "hard link": (f"{FILM} --output hard.mp4", LOST),
    "pipeline": ("--source gst:filesrc!location=film.mp4 --classes road --output film.mp4", LOST),
    "file address": (
        "--source gst:uridecodebin!uri=file://{}/film.mp4 --classes road --output film.mp4",
        LOST,
    ),
    "camera": ("--source film=film.mp4 --classes road --output {{camera}}.mp4", LOST),
    "another camera": (
        "--source a=scene:street --source b=film.mp4 --source film=0 --classes road "
        "--output {{camera}}.mp4",
        LOST,
    ),
    "topic": ("--source drive.mcap?topic=/image --classes road --output drive.mcap", LOST),
    "in a bag": ("--source drive --classes road --trace drive/metadata.yaml", LOST),
    "picture of a folder": (f"{PICS} --output pics/a.png", LOST),
    "picture of a linked folder": (f"{PICS} --output also/a.png", LOST),
    "picture that a link leads to": (f"{PICS} --output elsewhere/c.png", LOST),
    "folder": (f"{PICS} --output masks:pics", LOST),
    "folder by a link": (f"{PICS} --output overlays:also", LOST),
    "folder of the pictures of a pattern": (
        "--source pics/*.png --classes road --output masks:pics",
        LOST,
    ),
    "folder that a link leads to": (f"{PICS} --output masks:elsewhere", LOST),
    "folder that a pattern reads": (
        "--source pics/*/*.png --source pics/*.png --classes road --output masks:pics/{{camera}}",
        "would read it the next time",
    ),
    "folder that a deep pattern reads": (
        "--source pics/**/*.png --classes road --output masks:pics/new",
        "would read it the next time",
    ),
    "trace": (f"{FILM} --output null --trace film.mp4", LOST),
    "bundle": (f"{FILM} --bundle street.dedos --output null --trace street.dedos", LOST),
    "in a bundle": (f"{FILM} --bundle model --output model/new.jsonl", LOST),
    "manifest": (f"{FILM} --bundle model --trace model/manifest.json", LOST),
    "class file": ("--source film.mp4 --classes words.txt --trace ./words.txt", LOST),
    "class file of one source": (
        "--source a=film.mp4 --source b=drive.mcap --classes a:words.txt --classes b:road "
        "--trace ./words.txt",
        LOST,
    ),
    "twice": (f"{FILM} --output o.mcap --output ./o.mcap", ONE_PLACE),
    "twice with a setting": (f"{FILM} --output o.mcap?profile=ros2 --output o.mcap", ONE_PLACE),
    "source with a setting": (
        "--source drive.mcap --classes road --output ./drive.mcap?profile=ros2",
        LOST,
    ),
    "twice by a link": (f"{FILM} --output pics/o.jsonl --output also/o.jsonl", ONE_PLACE),
    "twice but for the case": (f"{FILM} --output o.jsonl --output O.jsonl", ONE_PLACE),
    "state": (f"{FILM} --serve 0 --state ./film.mp4", LOST),
    "state and output": (f"{FILM} --output o.jsonl --serve 0 --state ./o.jsonl", ONE_PLACE),
    "trace and output": (f"{FILM} --output o.jsonl --trace ./o.jsonl", ONE_PLACE),
    "folders twice": (f"{FILM} --output masks:m --output overlays:./m", ONE_PLACE),
    "picture in a folder": (f"{FILM} --output masks:m --output m/last.png", ONE_PLACE),
}


@pytest.mark.parametrize("overwrite", [(), ("--overwrite",)], ids=["", "overwrite"])
@pytest.mark.parametrize("case", RUN)
def test_dedos_run_refuses_what_would_destroy(
    case: str, overwrite: tuple[str, ...], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line, expected = RUN[case]
    before = state(here)
    code = run_cli.main([*line.format(here).split(), *overwrite])
    said = capsys.readouterr().err
    assert code == 2 and said.count("\n") == 1, said
    assert expected in said
    assert state(here) == before


OTHERS: dict[str, tuple[Callable[[list[str]], int], str]] = {
    "report over data": (eval_cli.main, "--bundle demo --data set --output set"),
    "report over data by a link": (eval_cli.main, "--bundle demo --data set --output ./set/."),
    "report among pictures": (eval_cli.main, "--bundle demo --data set --output set/images/val"),
    "report in a bundle": (eval_cli.main, "--bundle model --data set --output model/report"),
    "bundle over itself": (
        eval_cli.main,
        "calibrate-thresholds --bundle street.dedos --data set --output ./street.dedos --overwrite",
    ),
    "bundle over its checkpoint": (
        export_cli.main,
        "--checkpoint model/w.safetensors --output model --overwrite",
    ),
    "bundle over its frames": (
        export_cli.main,
        "--checkpoint weights.safetensors --frames street.dedos --output street.dedos --overwrite",
    ),
    "table over weights": (
        export_cli.main,
        "--checkpoint weights.safetensors --calib pics --calib-table ./weights.safetensors "
        "--precision int8 --output new.dedos",
    ),
    "table over the bundle": (
        export_cli.main,
        "--checkpoint weights.safetensors --calib pics --calib-table new.dedos --precision int8 "
        "--output new.dedos",
    ),
    "run over data": (train_cli.main, "--data set --output set"),
    "run among pictures": (train_cli.main, "--data set=2 --output set/images/run"),
    "run over its start": (
        train_cli.main,
        "--data set --init run/checkpoint.safetensors --output run",
    ),
    "diffusion over data": (train_cli.main, "diffusion --data set --output ./set"),
    "labels over their pictures": (
        train_cli.main,
        "pseudo-labels pics --teacher voc=weights.safetensors --output pics",
    ),
    "labels over labels": (
        train_cli.main,
        "pseudo-labels set --teacher voc=weights.safetensors --output ./set --complete val",
    ),
}


@pytest.mark.parametrize("case", OTHERS)
def test_other_commands_refuse_what_would_destroy(
    case: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    (here / "model/w.safetensors").write_bytes(b"w")
    (here / "run").mkdir()
    (here / "run/checkpoint.safetensors").write_bytes(b"w")
    before = state(here)
    main, line = OTHERS[case]
    assert main(line.split()) == 2
    assert re.search(f"{LOST}|{ONE_PLACE}", capsys.readouterr().err)
    assert state(here) == before


ALLOWED = [
    (Written("o", Path("o.jsonl")), Read("s", (Path("pics"),))),
    (Written("o", Path("pics/new.jsonl")), Read("s", (Path("pics"),))),
    (Written("o", Path("pics/masks"), ("*.png",)), Read("s", (Path("pics"),), pattern=None)),
    (Written("o", Path("."), ("*.png",)), Read("s", (Path("film.mp4"),))),
    (Written("o", Path("."), ("*.png",)), Read("s", (Path("pics/a.png"),))),
    (Written("o", Path("new"), ("*.png",)), Read("s", (Path("pics/a.png"),), "pics/*.png")),
    (Written("o", Path("pics/new"), ("*.png",)), Read("s", (Path("pics/a.png"),), "pics/*.png")),
    (Written("o", Path("run"), ("log.jsonl",)), Read("s", (Path("run/words.txt"),))),
    (Written("o", Path("new"), (ALL,)), Read("s", (Path("model"),), closed=True)),
]


@pytest.mark.parametrize(("written", "read"), ALLOWED)
def test_what_is_apart_may_be_written(written: Written, read: Read, here: Path) -> None:
    check_apart([written, Written("other", Path("other.jsonl"))], [read])


def test_a_link_that_leads_nowhere_is_a_name_like_others(here: Path) -> None:
    os.symlink("new.jsonl", here / "dangling.jsonl")
    outputs = [Written("a", Path("dangling.jsonl")), Written("b", Path("new.jsonl"))]
    with pytest.raises(BadInputError, match="a and b are one place"):
        check_apart(outputs, [])
