"""Numbers of benchmarks: what would break a measurement, or measure nothing, is refused before it begins."""

from __future__ import annotations

import argparse
import ast
import importlib
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
SCRIPTS = {path.stem: path for path in FOLDER.glob("*.py") if "add_argument" in path.read_text()}
CHECKED_ALL_THE_SAME = {"corpus_cost"}
"""Its numbers are those of a plan, which refuses them in sentences of its own (test_corpus_cost.py)."""


def bare_numbers(path: Path) -> list[str]:
    """Return the options of a script that take whatever int or float reads."""
    calls = [
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and node.args
    ]
    keywords = [{one.arg: ast.unparse(one.value) for one in call.keywords} for call in calls]
    return [
        ast.unparse(call.args[0])
        for call, given in zip(calls, keywords, strict=True)
        if given.get("type") in ("int", "float") and "choices" not in given
    ]


@pytest.mark.parametrize("name", sorted({*SCRIPTS} - CHECKED_ALL_THE_SAME))
def test_no_option_takes_any_number(name: str) -> None:
    assert bare_numbers(SCRIPTS[name]) == []


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("tiles", ["--scenes", "0"], "--scenes: '0' is no whole number from 1 on"),
        ("tiles", ["--data", "a", "--images", "-2"], "--images: '-2' is no whole number from 1"),
        ("tiles", ["--scenes", "1", "--minutes", "nan"], "--minutes: 'nan' is no finite number"),
        ("batches", ["a.dedos", "--cameras", "1"], "--cameras: '1' is no whole number from 2 on"),
        ("batches", ["a.dedos", "--batch", "2", "0"], "--batch: '0' is no whole number from 1 on"),
        ("cameras", ["--cameras", "1"], "--cameras: '1' is no whole number from 2 on"),
        ("cameras", ["--fps", "0"], "--fps: '0' is no finite number above 0"),
        ("cameras", ["--seconds", "inf"], "--seconds: 'inf' is no finite number from 1"),
        ("cameras", ["--max-latency-ms", "0"], "--max-latency-ms: '0' is no finite number above"),
        ("confusion", ["--classes", "19", "4097"], "'4097' is no whole number from 1 to 4096"),
        ("confusion", ["--size", "0", "9"], "--size: '0' is no whole number from 1 on"),
        ("corpus", ["a.mp4", "--kills", "-1"], "--kills: '-1' is no whole number from 0 on"),
        ("cpu_engines", ["--slots", "1"], "--slots: '1' is no whole number from 2 on"),
        ("explaining", ["a", "--images", "0"], "--images: '0' is no whole number from 1 on"),
        ("flicker", ["--still", "1"], "--still: '1' is no whole number from 2 on"),
        ("first_run_on_gpu", ["--minutes", "0"], "--minutes: '0' is no finite number above 0"),
        ("label_map", ["--threads", "0"], "--threads: '0' is no whole number from 1 on"),
        ("libdedos", ["--rounds", "1.5"], "--rounds: '1.5' is no whole number from 1 on"),
        ("overhead", ["--frames", "0"], "--frames: '0' is no whole number from 1 on"),
        (
            "partial_lists",
            ["--data", "a", "--lists", "0"],
            "--lists: '0' is no whole number from 1",
        ),
        ("planner", ["--seed", "-1"], "--seed: '-1' is no whole number from 0 on"),
        ("soak", ["--frames", "0"], "--frames: '0' is no whole number from 1 on"),
        ("trust", ["--frames", "0"], "--frames: '0' is no whole number from 1 on"),
        ("unseen_words", ["--data", "a", "--images", "0"], "--images: '0' is no whole number"),
        ("unseen_words", ["--data", "a", "--images", "9" * 30], "is no whole number from 1 on"),
    ],
)
def test_a_number_that_measures_nothing_is_told_what_is_allowed(
    name: str,
    given: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    with pytest.raises(SystemExit, match="^2$"):
        importlib.import_module(name).main(given)
    assert said in capsys.readouterr().err.splitlines()[-1]


def test_defaults_are_allowed_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """argparse reads no default that is a number already."""
    seen = 0
    monkeypatch.syspath_prepend(str(FOLDER))
    for name in ("batches", "cameras", "confusion", "cpu_engines", "int8", "label_map", "overhead"):
        parser = importlib.import_module(name).build_parser()
        for action in parser._actions:
            values = action.default if isinstance(action.default, list) else [action.default]
            for value in (one for one in values if isinstance(one, int | float) and action.type):
                assert action.type(str(value)) == value  # type: ignore[operator]
                with pytest.raises(argparse.ArgumentTypeError):
                    action.type("nan")  # type: ignore[operator]
                seen += 1
    assert seen > 20
