from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from dedos_deploy import export
from dedos_deploy.cli import _progress
from dedos_deploy.cli import export as command
from dedos_deploy.cli._progress import ProgressLines
from dedos_deploy.cli.export import main
from dedos_deploy.model import Dedos, save_checkpoint
from dedos_deploy.options import size_hw


@pytest.fixture
def folder(tmp_path: Path, model: Dedos, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of a user with one good checkpoint and some bad ones."""
    save_checkpoint(tmp_path / "good.safetensors", model)
    content = (tmp_path / "good.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(content[: len(content) // 2])
    (tmp_path / "text.safetensors").write_text("no weights here")
    (tmp_path / "taken.dedos").write_text("something")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "no weights were named; give --checkpoint FILE"),
        ("--preset nanoo", "unknown preset 'nanoo', did you mean 'nano'"),
        ("--preset edge-b", "'edge-b' has no embedded weights"),
        ("--checkpoint nowhere.safetensors", "checkpoint nowhere.safetensors does not exist"),
        ("--checkpoint cut.safetensors", "cut.safetensors is not a readable safetensors file"),
        ("--checkpoint text.safetensors", "text.safetensors is not a readable safetensors file"),
        ("--checkpoint good.safetensors --preset edge-b", "is of preset 'nano', not 'edge-b'"),
        ("--checkpoint good.safetensors --size 30x48", "size 30x48 does not fit nano.*32x48"),
        ("--checkpoint good.safetensors --output taken.dedos", "taken.dedos' already exists"),
        ("--checkpoint good.safetensors --output full", "full' already exists; use --overwrite"),
        ("--checkpoint good.safetensors --output full --overwrite", "full' is not a bundle"),
        ("--checkpoint good.safetensors --output no/x.dedos", "no' does not exist; create it"),
        ("--checkpoint good.safetensors --output taken.dedos/x", "folder .* does not exist"),
        ("--checkpoint good.safetensors --frames nothing", "'nothing' does not exist; give a pic"),
        ("--checkpoint good.safetensors --vocabulary a,a", "'a' occurs twice"),
        ("--checkpoint good.safetensors --classes ,", "the class list"),
        ("--checkpoint good.safetensors --frame-count 0", "frame_count must be at least 1"),
        ("--checkpoint good.safetensors --batches 2,4", "grow from 1 to .* as 1,2,4, not 2,4"),
        (
            "--checkpoint good.safetensors --target rtx --compute-capabilities 6.1,x",
            "capability '6.1' is unknown",
        ),
    ],
)
def test_user_errors_are_one_sentence(
    folder: Path, capsys: pytest.CaptureFixture[str], line: str, message: str
) -> None:
    import re

    before = sorted(path.name for path in folder.rglob("*"))
    assert main(line.split()) == 2
    captured = capsys.readouterr()
    errors = [text for text in captured.err.splitlines() if "error:" in text]
    assert len(errors) == 1 and re.search(message, errors[0]), captured.err
    assert "Traceback" not in captured.err and not captured.out
    assert sorted(path.name for path in folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("options", "said"),
    [("--frames one.png", True), ("--frames one.png --no-frames", False), ("", False)],
)
def test_frames_of_the_user_that_travel_are_told(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: str,
    said: bool,
) -> None:
    cv2.imwrite("one.png", np.zeros((8, 8, 3), np.uint8))
    parity = SimpleNamespace(
        agreement=1.0, min_agreement=0.999, max_abs=0.0, frames=1, frames_from="somewhere"
    )
    text = SimpleNamespace(min_cosine=1.0)
    report = SimpleNamespace(
        path=folder,
        size=1,
        parity=parity,
        text=text,
        int8=None,
        engine=None,
        batches=(SimpleNamespace(batch=2, agreement=0.9995, max_abs=0.01),),
        trust=None,
        to_dict=dict,
    )
    monkeypatch.setattr(export, "export_bundle", lambda *_, **__: report)
    monkeypatch.setattr(command, "_words_to_try", lambda path: ("car",))
    assert main(["--checkpoint", "good.safetensors", *options.split()]) == 0
    told = "1 of yours are in the bundle; --no-frames leaves them out"
    summary = capsys.readouterr().out
    assert (told in summary) == said
    assert "  batch 2    99.95% of pixels agree" in summary


def test_unknown_choices_are_argparse_errors(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--precision", "fp8"])
    assert stopped.value.code == 2
    assert "invalid choice: 'fp8'" in capsys.readouterr().err


def test_size_is_height_by_width(capsys: pytest.CaptureFixture[str]) -> None:
    assert size_hw("384x640") == (384, 640) == size_hw(" 384X640 ")
    for text in ("640", "1x2x3", "ax5", "-4x4", "0.5x1", "0x5", "٣x4", ""):
        with pytest.raises(SystemExit) as stopped:
            main([f"--size={text}"])
        assert stopped.value.code == 2
        assert "is not a size; write HEIGHTxWIDTH, as 240x320" in capsys.readouterr().err


def test_tiles_are_words_a_grid_or_a_stride(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--tiles=2by3"])
    assert stopped.value.code == 2
    assert "argument --tiles: '2by3' are no tiles; write auto, off," in capsys.readouterr().err


def test_batches_are_numbers_with_commas(capsys: pytest.CaptureFixture[str]) -> None:
    for text in ("1,four", "1, 2", "1,,2", ""):
        with pytest.raises(SystemExit) as stopped:
            main([f"--batches={text}"])
        assert stopped.value.code == 2
        assert "are no numbers of frames per run; write them as 1,2,4" in capsys.readouterr().err


def test_stage_lines_in_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_progress, "TICK_S", 0.01)
    monkeypatch.setattr(_progress, "SILENT_S", 0.0)
    stream = _Watched("K=64")
    lines = ProgressLines(stream)
    lines.begin(3, 7, "building")
    lines.note("profile K=64")
    assert stream.seen.wait(10)
    lines.warn("it is late")
    lines.end(completed=True)
    lines.begin(4, 7, "writing")
    lines.end(completed=False)
    text = stream.getvalue().splitlines()
    assert text[0] == "[3/7] building, profile K=64 … 0 s"
    assert "warning: it is late" in text
    assert text[-2].startswith("[3/7] building … ") and text[-2].endswith(" s")
    assert text[-1].startswith("[4/7] writing … ") and text[-1].endswith(" s, stopped")
    assert "\r" not in stream.getvalue()
    assert not [thread for thread in threading.enumerate() if thread.name == "progress-clock"]


def test_stage_lines_on_a_terminal_rewrite_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_progress, "TICK_S", 0.01)
    monkeypatch.setattr(_progress, "SILENT_S", 0.0)
    stream = _Watched("a long note", terminal=True)
    lines = ProgressLines(stream)
    lines.begin(1, 2, "tracing")
    lines.note("a long note")
    assert stream.seen.wait(10)
    lines.end(completed=True)
    # What remains visible after carriage returns is the closing line alone.
    visible = stream.getvalue().rstrip("\n").split("\r")[-1]
    assert visible.startswith("[1/2] tracing … ") and stream.getvalue().count("\n") == 1


class _Watched(io.StringIO):
    """A stream that tells when a text has been written to it."""

    def __init__(self, text: str, *, terminal: bool = False) -> None:
        super().__init__()
        self.seen = threading.Event()
        self._text, self._terminal = text, terminal

    def write(self, text: str) -> int:
        count = super().write(text)
        if self._text in text:
            self.seen.set()
        return count

    def isatty(self) -> bool:
        return self._terminal


def test_counts_are_told_with_the_time_that_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_progress, "TICK_S", 0.01)
    monkeypatch.setattr(_progress, "SILENT_S", 0.0)
    monkeypatch.setattr(_progress, "LOG_EVERY_S", 0.0)
    stream = _Watched("another note … ")
    lines = ProgressLines(stream)
    with lines.part(2, 3, "labelling"):
        lines.note("the set")
        lines.count(4, 10)  # what a resumed run had before took no time of this one
        until(lambda: "[2/3] labelling, the set, image 4 of 10 … 0 s\n" in stream.getvalue())
        lines.count(7, 10)
        until(lambda: "[2/3] labelling, the set, image 7 of 10, 0 s left" in stream.getvalue())
        lines.note("another note")
        assert stream.seen.wait(10)
    assert "another note, image" not in stream.getvalue()


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)
