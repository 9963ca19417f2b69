"""benchmarks/corpus.py compares before it times, verifies what it labelled, and keeps its JSON keys."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from corpus_helpers import film

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import corpus as benchmark  # noqa: E402


def test_it_reports_what_it_claims(
    bundle: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "SAMPLE_S", 0.02)
    arguments = [
        str(film(tmp_path / "film.avi", 25)),
        "--bundle",
        bundle,
        "--classes",
        "blue,green",
    ]
    arguments += ["--frames", "40", "--rounds", "1", "--kills", "0", "--workers", "1", "--json"]
    assert benchmark.main(arguments) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (report["frames"], report["agreement"]) == (40, 1.0)
    assert (report["missing"], report["duplicates"], report["wrong"]) == (0, 0, 0)
    assert report["loop_ratio"] > 0 and report["cpu_ratio"] > 0 and report["manifest_100k_s"] > 0
    assert isinstance(report["growth_mb"], float)


def test_memory_that_grows_is_seen() -> None:
    flat = benchmark.Memory([1.0, *[50.0] * 20])
    rising = benchmark.Memory([float(n) for n in range(40)])
    assert flat.growth_mb == 0.0 and rising.growth_mb == 20.0
    with pytest.raises(benchmark.BadInputError, match="more --frames"):
        _ = benchmark.Memory([1.0]).growth_mb
