"""benchmarks/corpus_cost.py: by hand where nothing fails, by the renewal formula where workers do."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "corpus_cost.py"
LINE = ["--workers", "3", "--fps", "10", "--fps-from", "by hand"]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("corpus_cost", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_without_failures_it_is_as_by_hand(script: ModuleType) -> None:
    """Ten shards of 100/10 + 2 = 12 s and one of 50/10 + 2 = 7 s, after 5 s: 4, 4 and 3 of them."""
    plan = script.Plan(
        workers=3, fps=10.0, price=6.0, frames=1050, shard=100, start_s=5.0, shard_s=2.0
    )
    found = script.simulate(plan, seed=0)
    ends_s = [5 + 4 * 12, 5 + 3 * 12 + 7, 5 + 3 * 12]
    assert found.hours == pytest.approx(53 / 3600) and max(ends_s) == 53
    assert found.cost == pytest.approx(6.0 * 3 * 53 / 3600)
    assert found.idle == pytest.approx((3 * 53 - sum(ends_s)) / (3 * 53))
    assert (found.failures, found.lost) == (0, 0.0)
    assert plan.least_hours == pytest.approx(1050 / 10 / 3 / 3600)
    assert script.expected_shard_s(plan) == 12.0


@pytest.mark.parametrize(("mtbf_s", "restart_s"), [(100.0, 30.0), (50.0, 0.0), (2000.0, 500.0)])
def test_failures_cost_what_the_renewal_formula_says(
    script: ModuleType, mtbf_s: float, restart_s: float
) -> None:
    plan = script.Plan(
        workers=1, fps=1.0, shard=100, shard_s=0.0, mtbf_h=mtbf_s / 3600, restart_s=restart_s
    )
    chance = np.random.default_rng(4)
    times = np.array([script.shard_seconds(plan, 100, chance) for _ in range(4000)])
    error = times.std() / math.sqrt(len(times))
    expected = (math.exp(100 / mtbf_s) - 1) * (mtbf_s + restart_s)
    assert script.expected_shard_s(plan) == pytest.approx(expected)
    assert abs(times.mean() - expected) < 4 * error < 0.12 * expected
    # Every attempt but the last fails: with the chance p of one, p / (1 - p) of them.
    whole = replace(plan, frames=200_000)
    found = script.simulate(whole, seed=1)
    failures = 2000 * (math.exp(100 / mtbf_s) - 1)
    assert abs(found.failures - failures) < 5 * math.sqrt(failures * math.exp(100 / mtbf_s))
    assert 3600 * found.hours == pytest.approx(60 + 2000 * expected, rel=0.12)


def test_stragglers_take_longer_as_their_mean_says(script: ModuleType) -> None:
    plan = script.Plan(workers=1, fps=1.0, shard=100, shard_s=0.0, sigma=0.5)
    chance = np.random.default_rng(2)
    times = np.array([script.shard_seconds(plan, 100, chance) for _ in range(4000)])
    error = times.std() / math.sqrt(len(times))
    assert abs(times.mean() - 100 * math.exp(0.5**2 / 2)) < 4 * error < 5.0
    assert abs(np.median(times) - 100) < 5.0


def test_shards_may_be_too_large_and_too_small(script: ModuleType) -> None:
    plan = script.Plan(workers=50, fps=1.0, price=1.0, frames=100_000, mtbf_h=0.5, restart_s=60.0)
    costs = {shard: script.simulate(replace(plan, shard=shard), 3).cost for shard in (1, 60, 3000)}
    assert costs[60] < costs[1] and costs[60] < costs[3000]


def test_the_same_seed_gives_the_same_run(script: ModuleType) -> None:
    plan = script.Plan(workers=4, fps=1.0, frames=5000, shard=50, mtbf_h=0.1, sigma=0.3)
    assert script.simulate(plan, 7) == script.simulate(plan, 7) != script.simulate(plan, 8)


def test_a_measured_ratio_scales_the_rate(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = tmp_path / "corpus.json"
    runs = []
    for found in (None, {"loop_ratio": 0.97}, {"loop_ratio": 0.97, "ray_ratio": 0.8, "missing": 0}):
        more = []
        if found is not None:
            measured.write_text("two lines\n" + json.dumps(found) + "\n")
            more = ["--measured", str(measured)]
        assert script.main([*LINE, *more, "--frames", "6000", "--seeds", "2", "--json"]) == 0
        runs.append(json.loads(capsys.readouterr().out.splitlines()[-1]))
    assert [run["plan"]["fps"] for run in runs] == pytest.approx([10.0, 9.7, 8.0])
    assert runs[2]["fps_from"] == "by hand, times ray_ratio 0.800"
    assert runs[0]["least_hours"] == pytest.approx(0.8 * runs[2]["least_hours"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workers", "0"], "workers must be at least 1, not 0"),
        (["--fps", "0"], "fps must be more than 0, not 0.0"),
        (["--fps", "nan"], "fps must be more than 0, not nan"),
        (["--fps", "inf"], "inf frames per second are no rate of a worker; give a measured one"),
        (["--fps", "1e-320"], "1e-320 frames per second are no rate of a worker"),
        (["--mtbf-h", "-1"], "mtbf_h must be more than 0, not -1.0"),
        (["--sigma", "inf"], "sigma must be 0 or more, not inf"),
        (["--seeds", "0"], "seeds must be at least 1, not 0"),
        (
            ["--mtbf-h", "0.005"],
            "a shard takes 0.0281 hours and a worker fails every 0.005, so that hardly",
        ),
        (
            ["--shard-s", "1e9", "--mtbf-h", "9"],
            "so that hardly one would ever be done; make shards smaller",
        ),
        (["--measured", "none.json"], "'none.json' cannot be read as JSON"),
        (["--measured", "lost.json"], "is of a run with missing 3, whose rate says nothing"),
        (["--measured", "wrong.json"], "is of a run with wrong 2, whose rate says nothing"),
        (["--measured", "other.json"], "has neither ray_ratio nor loop_ratio between 0 and 2"),
    ],
)
def test_impossible_numbers_are_refused_in_one_sentence(
    script: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("lost.json").write_text('{"loop_ratio": 0.9, "missing": 3}')
    Path("wrong.json").write_text('{"loop_ratio": 0.9, "missing": 0, "duplicates": 0, "wrong": 2}')
    Path("other.json").write_text('{"loop_ratio": 17}')
    assert script.main([*LINE, *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1 and not captured.out
