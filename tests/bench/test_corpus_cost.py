"""benchmarks/corpus_cost.py: by hand where nothing fails, by the renewal formula where workers do."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "corpus_cost.py"
sys.path.append(str(SCRIPT.parent))

import corpus_simulation as simulation  # noqa: E402
from corpus_record import Attempt, Record  # noqa: E402
from corpus_simulation import Plan  # noqa: E402

Refused = Callable[[list[str], str], None]
LINE = ["--workers", "3", "--fps", "10", "--fps-from", "by hand"]


@pytest.fixture(scope="module")
def script(benchmark_script: Callable[[str], ModuleType]) -> ModuleType:
    return benchmark_script("corpus_cost")


@pytest.fixture
def refused(
    script: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Refused:
    """In an empty folder: arguments are refused in one sentence that says something."""
    monkeypatch.chdir(tmp_path)

    def check(arguments: list[str], message: str) -> None:
        assert script.main(arguments) == 2
        captured = capsys.readouterr()
        assert message in captured.err and captured.err.count("\n") == 1 and not captured.out

    return check


def test_without_failures_it_is_as_by_hand() -> None:
    """Ten shards of 100/10 + 2 = 12 s and one of 50/10 + 2 = 7 s, after 5 s: 4, 4 and 3 of them."""
    plan = Plan(workers=3, fps=10.0, price=6.0, frames=1050, shard=100, start_s=5.0, shard_s=2.0)
    found = simulation.simulate(plan, seed=0)
    ends_s = [5 + 4 * 12, 5 + 3 * 12 + 7, 5 + 3 * 12]
    assert found.hours == pytest.approx(53 / 3600) and max(ends_s) == 53
    assert found.cost == pytest.approx(6.0 * 3 * 53 / 3600)
    assert found.idle == pytest.approx((3 * 53 - sum(ends_s)) / (3 * 53))
    assert (found.failures, found.lost) == (0, 0.0)
    assert plan.least_hours == pytest.approx(1050 / 10 / 3 / 3600)
    assert simulation.expected_shard_s(plan) == 12.0


def shard_times(plan: Plan) -> Any:
    """Return the seconds of a worker alone until one shard is done, under 4000 seeds."""
    alone = replace(plan, frames=plan.shard)
    hours = np.array([simulation.simulate(alone, seed).hours for seed in range(4000)])
    return 3600 * hours - plan.start_s


@pytest.mark.parametrize(("mtbf_s", "restart_s"), [(100.0, 30.0), (50.0, 0.0), (2000.0, 500.0)])
def test_failures_cost_what_the_renewal_formula_says(mtbf_s: float, restart_s: float) -> None:
    plan = Plan(
        workers=1, fps=1.0, shard=100, shard_s=0.0, mtbf_h=mtbf_s / 3600, restart_s=restart_s
    )
    times = shard_times(plan)
    error = times.std() / math.sqrt(len(times))
    expected = (math.exp(100 / mtbf_s) - 1) * (mtbf_s + restart_s)
    assert simulation.expected_shard_s(plan) == pytest.approx(expected)
    assert abs(times.mean() - expected) < 4 * error < 0.12 * expected
    # Every attempt but the last fails: with the chance p of one, p / (1 - p) of them.
    whole = replace(plan, frames=200_000)
    found = simulation.simulate(whole, seed=1)
    failures = 2000 * (math.exp(100 / mtbf_s) - 1)
    assert abs(found.failures - failures) < 5 * math.sqrt(failures * math.exp(100 / mtbf_s))
    assert 3600 * found.hours == pytest.approx(60 + 2000 * expected, rel=0.12)


def test_stragglers_take_longer_as_their_mean_says() -> None:
    plan = Plan(workers=1, fps=1.0, shard=100, shard_s=0.0, sigma=0.5)
    times = shard_times(plan)
    error = times.std() / math.sqrt(len(times))
    assert abs(times.mean() - 100 * math.exp(0.5**2 / 2)) < 4 * error < 5.0
    assert abs(np.median(times) - 100) < 5.0


def test_shards_may_be_too_large_and_too_small() -> None:
    plan = Plan(workers=50, fps=1.0, price=1.0, frames=100_000, mtbf_h=0.5, restart_s=60.0)
    costs = {
        shard: simulation.simulate(replace(plan, shard=shard), 3).cost for shard in (1, 60, 3000)
    }
    assert costs[60] < costs[1] and costs[60] < costs[3000]


def test_a_shard_that_is_lost_is_the_next_that_somebody_takes() -> None:
    """Two workers, six shards of 10 s from 5 s on; the first fails at 22 s, at its second shard."""
    plan = Plan(workers=2, fps=1.0, frames=60, shard=10, start_s=5.0, shard_s=0.0)
    plan = replace(plan, failing=1, failing_s=22.0, restart_s=4.0)
    found = simulation.simulate(plan, 0)
    # The second takes it at 25 s: 25-35, 35-45; the first is back at 26 s: 26-36, and waits.
    assert (3600 * found.hours, found.failures) == (pytest.approx(45.0), 1)
    assert found.lost == pytest.approx((7 + 4) / 90) and found.idle == pytest.approx(9 / 90)
    # Noticed at 30 s, after the second has taken the last new one at 25 s, it is the first's again.
    late = simulation.simulate(replace(plan, notice_s=8.0, frames=50), 0)
    assert 3600 * late.hours == pytest.approx(40.0)
    # And where nothing new is left, whoever is free waits until it is noticed.
    last = replace(plan, frames=40, failing_s=16.0, restart_s=100.0, notice_s=30.0)
    assert 3600 * simulation.simulate(last, 0).hours == pytest.approx(16 + 30 + 10)


def test_one_that_waits_for_nothing_takes_what_fails_later() -> None:
    """Three workers, three shards of 10 s: the one whose shard fails at 9 s comes back after 100 s."""
    plan = Plan(workers=3, fps=1.0, frames=20, shard=10, start_s=0.0, shard_s=0.0)
    found = simulation.simulate(replace(plan, failing=1, failing_s=9.0, restart_s=100.0), 0)
    assert 3600 * found.hours == pytest.approx(19.0)


def recorded(**changed: object) -> Record:
    """Four shards of 10 frames at 2 a second by two workers, the second of which fails in its second."""
    done = [(0, 3.0, 8.0), (1, 3.0, 8.0), (0, 8.0, 13.0), (0, 13.0, 18.0)]
    attempts = [Attempt(worker, 10, began, ended, True) for worker, began, ended in done]
    attempts.append(Attempt(1, 10, 8.0, 11.5, False))
    values = {"workers": 2, "shard": 10, "ready_s": (3.0, 3.0, 60.0), "failed_s": 10.0}
    values |= {"back_s": 60.0, "attempts": tuple(attempts), "seconds": 18.0}
    return Record(**(values | changed))  # type: ignore[arg-type]


def test_a_record_is_replayed_by_its_own_rates(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = recorded()
    assert (record.fps, record.sigma, record.start_s) == (2.0, 0.0, 3.0)
    assert (record.restart_s, record.notice_s, record.frames) == (50.0, 1.5, 40)
    path = tmp_path / "nodes.json"
    path.write_text(f"said before\n{record.to_json()}\n")
    assert script.main(["--replay", str(path), "--seeds", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    # 3-8, 8-13 and the lost one 13-18, all by the first, the second being gone.
    assert found["simulated_s"] == pytest.approx(18.0) and found["ratio"] == pytest.approx(1.0)
    assert found["without_failure_s"] == pytest.approx(13.0)


def test_the_same_seed_gives_the_same_run() -> None:
    plan = Plan(workers=4, fps=1.0, frames=5000, shard=50, mtbf_h=0.1, sigma=0.3)
    assert (
        simulation.simulate(plan, 7) == simulation.simulate(plan, 7) != simulation.simulate(plan, 8)
    )


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
        (["--replay", "lost.json"], "leave --workers out"),
        (["--measured", "other.json"], "has neither ray_ratio nor loop_ratio between 0 and 2"),
    ],
)
def test_impossible_numbers_are_refused_in_one_sentence(
    refused: Refused, arguments: list[str], message: str
) -> None:
    Path("lost.json").write_text('{"loop_ratio": 0.9, "missing": 3}')
    Path("wrong.json").write_text('{"loop_ratio": 0.9, "missing": 0, "duplicates": 0, "wrong": 2}')
    Path("other.json").write_text('{"loop_ratio": 17}')
    refused([*LINE, *arguments], message)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--workers, --fps and --fps-from are needed, or --replay alone"),
        (["--replay", "none.json"], "'none.json' is no record of corpus_nodes.py --json"),
        (["--replay", "lost.json"], "'lost.json' is no record of corpus_nodes.py --json"),
        (["--replay", "few.json"], "has 1 attempts that were done and 1 that failed; at least 3"),
        (["--replay", "empty.json"], "cannot be: an attempt at 0 frames of a shard of 10; label"),
        (["--replay", "now.json"], "cannot be: an attempt from 8.0 to 8.0 s; label"),
        (["--replay", "alone.json"], "cannot be: 2 times when one of 2 workers, or one in place"),
        (["--replay", "nobody.json"], "cannot be: 3 times when one of 0 workers, or one in place"),
        (["--replay", "early.json"], "cannot be: a failure at 10.0 s, a worker back at 9.0 s"),
        (["--replay", "never.json"], "cannot be: an end at 0.0 s; label"),
    ],
)
def test_records_that_are_none_are_refused_in_one_sentence(
    refused: Refused, arguments: list[str], message: str
) -> None:
    Path("lost.json").write_text('{"loop_ratio": 0.9}')
    few = json.loads(recorded().to_json())
    first, *others = few["attempts"]
    for name, changed in {
        "few": {"attempts": few["attempts"][3:]},
        "empty": {"attempts": [{**first, "frames": 0}, *others]},
        "now": {"attempts": [{**first, "began_s": 8.0}, *others]},
        "alone": {"ready_s": [3.0, 3.0]},
        "nobody": {"workers": 0},
        "early": {"back_s": 9.0},
        "never": {"seconds": 0.0},
    }.items():
        Path(f"{name}.json").write_text(json.dumps(few | changed))
    refused(arguments, message)
