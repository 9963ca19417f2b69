"""Words and colours that are there again after a restart, and files that no restart may destroy."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dedos_deploy.cli.run import main
from dedos_deploy.runtime import Segmenter
from dedos_deploy.runtime.serving.controls import Controls
from dedos_deploy.runtime.serving.state_file import StateFile

BARS = ["--source", "gate=test:bars?frames=3&size=24x32"]


@contextmanager
def controls(bundle: Path, path: Path) -> Iterator[Controls]:
    """What dedos-run makes of the words red and green and a state."""
    state = StateFile(path)
    kept = state.chosen(["gate"])
    words = kept["gate"].vocabulary if kept else "red,green"
    with Segmenter.load(bundle, classes="lamp", threads=1) as shared:
        with Controls(shared, {"gate": shared.share(words)}, state=state) as opened:
            yield opened


def seen(one: Controls) -> list[tuple[str, str]]:
    return [(word["entry"], word["colour"]) for word in one.classes("gate")["classes"]]


def test_words_and_colours_survive_a_restart(bundle_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    with controls(bundle_folder, path) as one:
        assert not path.exists()
        one.set_classes("gate", "blue|navy@0.35#102030,red\\, or so,👨‍👩‍👧")
        one.set_colour("gate", one.classes("gate")["classes"][1]["id"], "#a0b0c0")
        before = seen(one)
    assert before[0] == ("blue|navy@0.35#102030", "#102030")
    assert before[1] == ("red\\, or so", "#a0b0c0")
    with controls(bundle_folder, path) as other:
        assert seen(other) == before
        other.set_classes("gate", "red")
    assert json.loads(path.read_text()) == {
        "format": 1,
        "cameras": {"gate": [{"entry": "red", "colour": None}]},
    }


def test_cameras_that_are_not_there_now_are_kept(bundle_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    yard = [{"entry": "lamp", "colour": "#102030"}]
    path.write_text(json.dumps({"format": 1, "cameras": {"yard": yard}}))
    with controls(bundle_folder, path) as one:
        one.set_colour("gate", 0, "#405060")
    cameras = json.loads(path.read_text())["cameras"]
    assert cameras["yard"] == yard and list(cameras) == ["yard", "gate"]


def test_a_change_that_cannot_be_written_is_said(
    bundle_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    with controls(bundle_folder, folder / "state.json") as one:
        assert one.state()["not_kept"] is None
        folder.rmdir()
        one.set_classes("gate", "blue")
        assert "cannot be written (No such file" in one.state()["not_kept"]
        assert "cannot be written" in caplog.text
        folder.mkdir()
        one.set_colour("gate", one.classes("gate")["classes"][0]["id"], "#405060")
        assert one.state()["not_kept"] is None
    assert "#405060" in (folder / "state.json").read_text()


def test_what_was_kept_wins_over_what_is_typed(
    bundle_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, lines = tmp_path / "state.json", tmp_path / "gate.jsonl"
    kept = [{"entry": "blue", "colour": None}, {"entry": "lamp@0.5", "colour": None}]
    path.write_text(json.dumps({"format": 1, "cameras": {"gate": kept}}))
    arguments = ["--bundle", str(bundle_folder), *BARS, "--classes", "red", "--serve", "0"]
    assert main([*arguments, "--state", str(path), "--output", str(lines), "--threads", "1"]) == 0
    said = capsys.readouterr().err
    assert (
        said.count(f"words of gate are those kept in {str(path)!r}, whatever --classes says") == 1
    )
    assert set(json.loads(lines.read_text().splitlines()[0])["coverage"]) == {"blue", "lamp"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is not valid JSON"),
        ("{", "is not valid JSON"),
        ("[]", "must be an object"),
        ('{"format": 3, "tapes": []}', "field 'format' is 3, but dedos-deploy"),
        ('{"format": 0, "cameras": {}}', "field 'format' must be"),
        ('{"format": 1}', "key 'cameras' is missing"),
        ('{"format": 1, "cameras": {"a": [{"entry": 3, "colour": null}]}}', "must be a string"),
        ('{"format": 1, "cameras": {"a": []}}', "camera 'a': the list of classes has no class"),
        ('{"format": 1, "cameras": {"a": [{"entry": "b@2", "colour": null}]}}', "threshold '2'"),
        ('{"format": 1, "cameras": {"a": [{"entry": "b", "colour": "red"}]}}', "is no colour"),
        (b"\xff\xfe", "is no text"),
    ],
)
def test_a_file_that_is_none_is_refused_and_left_as_it_is(
    tmp_path: Path, content: str | bytes, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "state.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    before = path.read_bytes()
    # Nothing is loaded before: there is no such bundle.
    assert main(["--bundle", "nowhere", *BARS, "--serve", "0", "--state", str(path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("dedos-run: error: state ") and message in error
    assert error.count("\n") == 1 and path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_takes_no_file_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for place in (tmp_path, tmp_path / "nowhere" / "state.json"):
        assert main(["--bundle", "nowhere", *BARS, "--serve", "0", "--state", str(place)]) == 2
        error = capsys.readouterr().err
        assert "cannot be kept (" in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())
