"""Words files: rows that were tuned on a model, taken wherever words are, and refused by other models."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tiny_bundle import TEXT_WIDTH, at, stripes, write_tiny_bundle

from dedos_deploy.cli.export import main as export
from dedos_deploy.cli.run import main as run
from dedos_deploy.errors import BadInputError
from dedos_deploy.runtime import Segmenter
from dedos_deploy.runtime.serving.controls import Controls
from dedos_deploy.vocabulary import parse_vocabulary, typed_vocabulary
from dedos_deploy.vocabulary_file import save_vocabulary
from dedos_deploy.words_file import save_words_file

MODEL, OTHER = "a" * 64, "b" * 64
AXES = np.eye(3, TEXT_WIDTH, dtype=np.float32)
BLUE, GREEN, RED = AXES


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("words")
    return write_tiny_bundle(folder / "tiny.dedos", checkpoint_sha256=MODEL)


@pytest.fixture
def words(tmp_path: Path) -> Path:
    """A file by which what the text tower calls red and green change places."""
    return save_words_file(
        tmp_path / "my.words",
        entries=["red@0.25", "green|leaf"],
        words=["red", "green", "leaf"],
        embeddings=np.stack([GREEN, RED, RED]),
        model_sha256=MODEL,
        tuning={"data": "street", "frames": 20},
    )


def test_tuned_rows_take_the_place_of_the_text_towers(bundle: Path, words: Path) -> None:
    frame = stripes()
    with Segmenter.load(bundle, classes=words, threads=1) as segmenter:
        assert [spelled for _, _, spelled in segmenter.entries] == ["red@0.25", "green|leaf"]
        result = segmenter.segment(frame)
        assert (at(result, "green", frame), at(result, "red", frame)) == (0, 1)
        assert at(result, "blue", frame) == result.none_id


def test_a_view_keeps_the_rows_in_other_lists_until_another_file_comes(
    bundle: Path, words: Path, tmp_path: Path
) -> None:
    frame = stripes()
    with Segmenter.load(bundle, classes="red", threads=1) as segmenter:
        assert at(segmenter.segment(frame), "red", frame) == 0
        segmenter.set_classes(words)
        segmenter.set_classes("blue,Red")
        result = segmenter.segment(frame)
        assert result.classes[at(result, "green", frame)] == "Red"
        assert result.classes[at(result, "blue", frame)] == "blue"
        other = segmenter.share("red")
        assert at(other.segment(frame), "red", frame) == 0, (
            "a new view begins with the tower's rows"
        )
        back = save_words_file(
            tmp_path / "back.words",
            entries=["red"],
            words=["red"],
            embeddings=RED[None],
            model_sha256=MODEL,
            tuning={},
        )
        segmenter.set_classes(back)
        result = segmenter.segment(frame)
        assert result.classes[at(result, "red", frame)] == "red"


def test_the_page_keeps_tuned_rows_when_a_word_is_added(bundle: Path, words: Path) -> None:
    frame = stripes()
    with Segmenter.load(bundle, classes=words, threads=1) as segmenter:
        with Controls(segmenter, {"gate": segmenter}) as controls:
            spelled = [entry["entry"] for entry in controls.classes("gate")["classes"]]
            controls.set_classes("gate", ",".join([*spelled, "blue"]))
        result = segmenter.segment(frame)
        names = [result.classes[at(result, colour, frame)] for colour in ("red", "green", "blue")]
    assert names == ["green", "red", "blue"]


def test_dedos_run_takes_the_file_and_a_kept_state_its_rows(
    bundle: Path, words: Path, tmp_path: Path
) -> None:
    state = {"format": 1, "cameras": {"camera1": [{"entry": "red", "colour": None}]}}
    (tmp_path / "state.json").write_text(json.dumps(state))
    seen = {}
    for name, more in (
        ("file", []),
        ("kept", ["--serve", "127.0.0.1:0", "--state", str(tmp_path / "state.json")]),
    ):
        out = tmp_path / f"{name}.jsonl"
        command = ["--source", "scene:street?frames=1&size=24x32", "--bundle", str(bundle), *more]
        command += ["--classes", str(words), "--background", "none", "--output", str(out)]
        assert run(command) == 0
        seen[name] = json.loads(out.read_text().splitlines()[0])["coverage"]
    assert set(seen["file"]) == {"red", "green"} and set(seen["kept"]) == {"red"}


@pytest.mark.parametrize("made", [OTHER, None])
def test_rows_of_another_model_are_refused(made: str | None, words: Path, tmp_path: Path) -> None:
    place = write_tiny_bundle(tmp_path / "other", checkpoint_sha256=made)
    with pytest.raises(BadInputError, match=r"my\.words' was tuned on another model .*tune-words"):
        Segmenter.load(place, classes=words, threads=1)
    with Segmenter.load(place, classes="red", threads=1) as segmenter:
        with pytest.raises(BadInputError, match="tuned on another model"):
            segmenter.set_classes(words)
        assert segmenter.classes == ("red",) and segmenter.set_classes("green") == 2


def cut_to(length: int) -> Callable[[bytes], bytes]:
    return lambda content: content[:length]


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (cut_to(5), "cannot be used: vocabulary is damaged"),
        (cut_to(90), "cannot be used: vocabulary is damaged"),
        (cut_to(-7), "cannot be used: vocabulary is damaged"),
        (lambda content: content[:-1] + b"\1", "does not match its sha256"),
        (lambda content: content.replace(b"dedos-vocabulary", b"other-vocabulary"), "no format"),
    ],
)
def test_a_damaged_file_is_one_sentence(
    damage: Callable[[bytes], bytes],
    sentence: str,
    words: Path,
    bundle: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words.write_bytes(damage(words.read_bytes()))
    command = ["--source", "scene:street", "--bundle", str(bundle), "--classes", str(words)]
    assert run(command) == 2
    error = capsys.readouterr().err
    assert sentence in error and "my.words" in error and error.count("\n") == 1


def test_files_of_other_kinds_and_odd_entries_are_refused(tmp_path: Path) -> None:
    stored = save_vocabulary(tmp_path / "stored.words", ["red"], RED[None])
    with pytest.raises(BadInputError, match="without the model that they were tuned on"):
        parse_vocabulary(stored)
    for entries, sentence in (
        (["red", "blue"], "has no row for 'blue'"),
        (["red", "Red"], "'Red' occurs twice"),
        ([], "no readable list of entries"),
    ):
        place = save_words_file(
            tmp_path / "odd.words",
            entries=entries,
            words=["red"],
            embeddings=RED[None],
            model_sha256=MODEL,
            tuning={},
        )
        with pytest.raises(BadInputError, match=sentence):
            typed_vocabulary(str(place))


def test_a_name_that_ends_like_a_words_file_is_no_word(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="'my.words', which looks like a file"):
        parse_vocabulary("my.words")
    with pytest.raises(BadInputError, match=r"class file 'my\.words' does not exist"):
        typed_vocabulary("my.words")
    (tmp_path / "plain.words").write_text("road\ncar\n")
    assert typed_vocabulary(str(tmp_path / "plain.words")).names == ("road", "car")


def test_an_export_takes_words_alone(words: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export(["--preset", "nano", "--vocabulary", str(words)]) == 2
    assert "--vocabulary takes words" in capsys.readouterr().err
