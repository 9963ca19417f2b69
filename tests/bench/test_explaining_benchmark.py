"""benchmarks/explaining.py looks at labels before time, and keeps its JSON keys."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
sys.path += [str(TESTS.parent / "benchmarks"), str(TESTS / "evaluation")]

import explaining  # noqa: E402
from colours import write_bundle, write_colours  # noqa: E402

from dedos_deploy.runtime import Candidate, Segmentation  # noqa: E402


def test_labels_are_explained_before_anything_is_timed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEDOS_CACHE_DIR", str(tmp_path / "cache"))
    data, bundle = write_colours(tmp_path / "data"), write_bundle(tmp_path / "colours.dedos")
    line = [str(data), "--bundle", str(bundle), "--threads", "1", "--json"]
    assert explaining.main(line) == 0
    found = json.loads(capsys.readouterr().out)
    parts = {"kept_ms", "kept_part", "moves_ms", "moves_part"}
    assert set(found) == {"top_us", "frame_ms", *parts}
    monkeypatch.setattr(Segmentation, "top", lambda *_: (Candidate("sky", 1, "word", 0, "sky"),))
    assert explaining.main(line) == 2
    assert "is blue, but explained as" in capsys.readouterr().err
    assert explaining.main([str(tmp_path / "nowhere")]) == 2
