"""benchmarks/partial_lists.py: what is asked for, and which pixels are wrong then."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from colours import write_bundle, write_colours

from dedos_deploy.cli.eval import main as evaluate
from dedos_deploy.errors import BadInputError
from dedos_deploy.evaluation.folder import LabelledFolder


@pytest.fixture(scope="module")
def script(benchmark_script: Callable[[str], ModuleType]) -> ModuleType:
    return benchmark_script("partial_lists")


def test_parts_are_different_and_leave_something_out(script: ModuleType) -> None:
    names = tuple("abcdefg")
    found = script.lists_of(names, 8, seed=1)
    assert len(set(found)) == 8 and found == script.lists_of(names, 8, seed=1)
    assert {len(part) for part in found} == {2, 3}
    assert all(list(part) == sorted(part) and set(part) < set(names) for part in found)
    assert sorted(script.lists_of(("a", "b"), 8, seed=0)) == [("a",), ("b",)]
    with pytest.raises(BadInputError, match="one class, 'a', but two are needed"):
        script.lists_of(("a",), 1, seed=0)


def test_what_was_not_asked_for_is_wrong(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = write_bundle(tmp_path / "colours.dedos")
    data = write_colours(tmp_path / "data")
    given = ["--bundle", str(bundle), "--data", str(data)]
    assert script.main([*given, "--lists", "6", "--json"]) == 0
    ((found),) = json.loads(capsys.readouterr().out)
    everything, *parts = found["lists"]
    assert evaluate([*given, "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)
    assert everything["ece_of_scores"] == pytest.approx(measured["ece"], abs=1e-4)
    folder = LabelledFolder.open(data, "val")
    labels = np.concatenate([item.labels.ravel() for item in folder])
    shown = {name: (labels == index).sum() for index, name in enumerate(folder.classes)}
    for part in parts:
        # Every pixel gets a word, and no other pixel than these can be right.
        assert part["pixels"] == everything["pixels"]
        most = sum(shown[name] for name in part["asked"]) / part["pixels"]
        assert 0 < part["right"] <= most + 1e-4 < 1
    assert found["mean_of_parts"]["ece"] is None
    assert script.main(given) == 0 and "mean of parts" in capsys.readouterr().out


def test_bad_data_is_one_sentence(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script.main(["--data", str(tmp_path / "nothing")]) == 2
    assert "partial_lists: error:" in capsys.readouterr().err
