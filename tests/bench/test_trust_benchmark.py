"""benchmarks/trust.py tells frames that were learned from others, and refuses what it cannot compare."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

TESTS = Path(__file__).parents[1]
sys.path += [str(TESTS.parent / "benchmarks"), str(TESTS / "runtime")]

import trust as benchmark  # noqa: E402
from tiny_bundle import write_tiny_bundle  # noqa: E402

from dedos_deploy.trust import Kind, fit_trust  # noqa: E402


def pictures(folder: Path, middle: int) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(middle)
    for number in range(5):
        picture = np.clip(rng.normal(middle, 1, (1, 1, 3)).repeat(40, 0).repeat(60, 1), 0, 255)
        cv2.imwrite(str(folder / f"{number}.png"), picture.astype(np.uint8))
    return folder


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    rows = np.random.default_rng(0).normal(200, 2, (80, 3)).astype(np.float32)
    return write_tiny_bundle(tmp_path / "tiny", trust=fit_trust([Kind("f", "0" * 64, rows)], [3]))


def test_what_was_learned_is_told_from_what_was_not(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    learned, other = pictures(tmp_path / "learned", 200), pictures(tmp_path / "other", 60)
    asked = ["--bundle", str(bundle), "--learned", f"day={learned}", "--other", f"hall={other}"]
    assert benchmark.main([*asked, "--classes", "red,green,blue", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["false_alarms"] == 0 and found["learned"]["day"]["frames"] == 5
    assert set(found["other"]) == {"hall", "night", "hand", "unfocused", "noise"}
    assert found["other"]["hall"]["trust"] == found["other"]["night"]["trust"] == 1
    assert found["other"]["unfocused"]["trust"] == 0  # its mean is what it was
    assert benchmark.main(asked) == 0
    printed = capsys.readouterr().out
    assert "false alarms on learned frames: 0.0%" in printed and "hall" in printed


def test_what_cannot_be_compared_is_refused(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain, place = write_tiny_bundle(tmp_path / "plain"), pictures(tmp_path / "learned", 200)
    for given, message in (
        (["--bundle", plain, "--learned", f"a={place}"], "no statistics of learned frames"),
        (["--bundle", bundle, "--learned", f"a={place}", f"a={place}"], "'a' names two kinds"),
        (
            ["--bundle", bundle, "--learned", f"a={place}", "--other", f"hand={place}"],
            "'hand' names two kinds",
        ),
        (["--bundle", bundle, "--learned", f"a={tmp_path / 'no'}"], "does not exist"),
    ):
        assert benchmark.main([*map(str, given)]) == 2
        assert message in capsys.readouterr().err
