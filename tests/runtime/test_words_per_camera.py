"""--classes for all sources and for one of several."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dedos_deploy.cli.run import main
from dedos_deploy.cli.run_cameras import classes_of
from dedos_deploy.errors import BadInputError

TWO = ["--source", "gate=scene:street?frames=2&size=24x32"]
TWO += ["--source", "yard=scene:hall?frames=2&size=24x32"]


def test_a_name_before_a_colon_is_for_that_source() -> None:
    found = classes_of(["road,car", "yard: floor|ground@0.5"], ["gate", "yard", "roof"])
    assert [entry.spelled for entry in found["yard"].entries] == ["floor|ground@0.5"]
    assert found["gate"].names == found["roof"].names == ("road", "car")
    assert list(classes_of(["yard:floor"], ["gate", "yard"])) == ["yard"]
    assert classes_of(None, ["gate"]) == {}


def test_a_word_may_hold_a_colon() -> None:
    assert classes_of(["ratio 1:2,road"], ["gate", "yard"])["gate"].names == ("ratio 1:2", "road")


@pytest.mark.parametrize(
    ("given", "sources", "sentence"),
    [
        (["road", "car"], ["camera1"], "given twice; write one list, as --classes 'road,car"),
        (["road", "car"], ["gate", "yard"], "NAME:LIST for one of gate, yard"),
        (["gate:road", "gate:car"], ["gate", "yard"], "gives words to 'gate' twice"),
        (["gat:road"], ["gate", "yard"], "no source is called 'gat', did you mean 'gate'? there"),
        (["A:road"], ["a", "b"], "no source is called 'A', did you mean 'a'? there are a, b"),
        (["c:wall"], ["a", "b"], "no source is called 'c'; there are a, b"),
    ],
)
def test_what_could_mean_two_things_is_refused(
    given: list[str], sources: list[str], sentence: str
) -> None:
    with pytest.raises(BadInputError) as caught:
        classes_of(given, sources)
    assert sentence in str(caught.value)


def test_every_source_gets_its_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outputs = ["--output", str(tmp_path / "{camera}.jsonl")]
    words = ["--classes", "gate:road,sky", "--classes", "yard:floor"]
    assert main([*TWO, *words, *outputs, "--background", "none"]) == 0
    for name, expected in (("gate", {"road", "sky"}), ("yard", {"floor"})):
        lines = (tmp_path / f"{name}.jsonl").read_text().splitlines()
        assert len(lines) == 2
        assert set(json.loads(lines[0])["coverage"]) <= expected
    assert "using the bundle's own" not in capsys.readouterr().err


def test_a_source_without_words_gets_the_bundles_and_is_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([*TWO, "--classes", "gate:road", "--output", "null"]) == 0
    assert "no --classes given for yard: using the bundle's own" in capsys.readouterr().err


def test_the_mistake_costs_no_loading(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["--source", "scene:street", "--classes", "road", "--classes", "car"]
    assert main([*command, "--bundle", "nowhere.dedos"]) == 2
    assert "--classes was given twice" in capsys.readouterr().err
