"""Homes, caches and files that this user may not enter, read or write: a sentence, and going on."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import platformdirs
import pytest

from dedos_deploy.bundle import Bundle

pytestmark = pytest.mark.skipif(os.name == "nt", reason="modes are those of POSIX")

SOURCE = ("--source", "scene:street?frames=1&size=64x96")
# Root may enter and read everything, unless it gives that up.
POWERLESS = ("setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all")


PROGRAM = """
import contextlib, importlib, io, json, sys, traceback
said = []
for name, *arguments in json.load(sys.stdin):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = importlib.import_module(f"dedos_deploy.cli.{name}").main(arguments)
        except Exception:
            code = traceback.print_exc() or 1
    said.append((code, out.getvalue(), err.getvalue()))
json.dump(said, sys.__stdout__)
"""


class Said(NamedTuple):
    """What became of one command."""

    code: int
    out: str
    err: str


def as_anybody(*commands: Sequence[str], **environment: str) -> list[Said]:
    """Run commands one after the other in a process that may do no more than files' modes say."""
    if os.geteuid() == 0 and shutil.which("setpriv") is None:
        pytest.skip("as root, needs setpriv")
    prefix = POWERLESS if os.geteuid() == 0 else ()
    kept = {
        name: text for name, text in os.environ.items() if not name.startswith(("XDG_", "DEDOS_"))
    }
    done = subprocess.run(
        [*prefix, sys.executable, "-c", PROGRAM],
        input=json.dumps(commands),
        capture_output=True,
        text=True,
        timeout=120,
        env={**kept, **environment},
    )
    assert done.returncode == 0, done.stderr
    return [Said(*one) for one in json.loads(done.stdout)]


def label(*arguments: str) -> tuple[str, ...]:
    """A command that labels a scene with one word, as far as the arguments do not say otherwise."""
    given = ("--output", "null") if "--output" not in arguments else ()
    source = SOURCE if "--source" not in arguments else ()
    words = ("--classes", "road") if "--classes" not in arguments else ()
    return ("run", *source, *words, *given, *arguments)


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[Path]:
    """A folder that nobody may enter, with a picture, a class file and a video in it."""
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(0)
    yield folder
    folder.chmod(0o700)


@pytest.mark.parametrize(
    ("variable", "inner"), [("HOME", ""), ("XDG_CACHE_HOME", "c"), ("DEDOS_CACHE_DIR", "")]
)
def test_a_cache_that_cannot_be_entered_costs_time_only(
    locked: Path, variable: str, inner: str
) -> None:
    run, doctor = as_anybody(label(), ("doctor",), **{variable: str(locked / inner)})
    assert run.code == 0, run.err
    assert "cannot be written (Permission denied): bundle 'demo' is unpacked to" in run.err
    assert doctor.code in (0, 2) and "not writable" in doctor.out, doctor.err


@pytest.mark.parametrize("literal", [False, True])
def test_without_a_home_nothing_is_kept(
    literal: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As in a container that runs under a number: platformdirs raises, or gives a name with ~."""

    def unknown(*_: object, **__: object) -> str:
        if not literal:
            raise RuntimeError("could not determine the home directory")
        return "~/.cache/dedos-deploy"

    monkeypatch.delenv("DEDOS_CACHE_DIR", raising=False)
    monkeypatch.setattr(platformdirs, "user_cache_dir", unknown)
    with Bundle.open("demo") as bundle:
        assert bundle.base_words
    assert "anew each time; set DEDOS_CACHE_DIR to a folder that can be written" in caplog.text


def unreadable(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(0)
    return path


def png(channels: int = 3) -> bytes:
    return bytes(cv2.imencode(".png", np.zeros((8, 8, channels), np.uint8))[1])


def test_a_file_that_may_not_be_read_is_not_called_damaged(tmp_path: Path) -> None:
    option = {"classes.txt": "--classes", "street.dedos": "--bundle"}
    names = ("one.png", "film.mp4", "drive.mcap", "drive.bag", *option)
    paths = [unreadable(tmp_path / name, png()) for name in names]
    commands = [label(option.get(path.name, "--source"), str(path)) for path in paths]
    for path, said in zip(paths, as_anybody(*commands), strict=True):
        assert said.code == 2
        assert "Permission denied" in said.err and str(path) in said.err
        assert "damaged" not in said.err and "Traceback" not in said.err


def test_a_folder_that_may_not_be_entered_is_said_in_a_sentence(locked: Path) -> None:
    commands = [
        label("--source", f"{locked}"),
        label("--source", f"{locked}/one.png"),
        label("--source", f"{locked}/film.mp4"),
        label("--source", f"{locked}/drive.mcap"),
        label("--classes", f"{locked}/words.txt"),
        label("--bundle", f"{locked}/street.dedos"),
        label("--output", f"{locked}/o.jsonl"),
        label("--output", f"{locked}/o.mp4"),
        label("--output", f"masks:{locked}/masks"),
        label("--trace", f"{locked}/trace.json"),
        ("bench", "frame", "--bundle", f"{locked}/street.dedos"),
    ]
    for command, said in zip(commands, as_anybody(*commands), strict=True):
        assert said.code == 2, command
        assert "Permission denied" in said.err and "Traceback" not in said.err, command


def test_an_unreadable_picture_among_others_is_skipped_and_said(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png())
    unreadable(tmp_path / "b.png", png())
    (said,) = as_anybody(label("--source", str(tmp_path), "--json"))
    assert said.code == 0, said.err
    assert "b.png' cannot be read: Permission denied" in said.out


@pytest.mark.parametrize(
    "locked_part", ["images/val/a.png", "labels/val/a.png", "classes.txt", "images/val"]
)
def test_labelled_data_that_may_not_be_read(locked_part: str, tmp_path: Path) -> None:
    for room, channels in (("images", 3), ("labels", 1)):
        (tmp_path / room / "val").mkdir(parents=True)
        (tmp_path / room / "val" / "a.png").write_bytes(png(channels))
    (tmp_path / "classes.txt").write_text("road\n")
    path = tmp_path / locked_part
    path.chmod(0)
    (said,) = as_anybody(("eval", "--data", str(tmp_path), "--bundle", "demo"))
    path.chmod(0o700)
    assert said.code == 2, said.err
    assert "Permission denied" in said.err and "Traceback" not in said.err
    assert "damaged" not in said.err


def test_checkpoints_that_may_not_be_read(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    ours, theirs = (unreadable(tmp_path / name, b"weights") for name in ("a.safetensors", "b.pth"))
    output = ("--output", str(tmp_path / "out"))
    found = as_anybody(
        ("export", "--checkpoint", str(ours), *output),
        ("export", "--from", f"san:{theirs}", *output),
    )
    for said in found:
        assert said.code == 2, said.err
        assert "Permission denied" in said.err and "Traceback" not in said.err


def test_a_name_that_begins_like_a_home_is_a_name() -> None:
    names = ("~nobody-of-this-name/film.mp4", "~backup.png")
    for name, said in zip(
        names, as_anybody(*(label("--source", name) for name in names)), strict=True
    ):
        assert said.code == 2
        assert f"source {name!r} does not exist" in said.err
