"""The miniature: statistics by hand, the plan, the report, the whole."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from micro import Write, micro_config

from dedos_deploy.cli.train import main
from dedos_deploy.errors import BadInputError
from dedos_deploy.evaluation.records import ImageRecord
from dedos_deploy.evaluation.result import EvaluationResult, result_of
from dedos_deploy.model import build_model
from dedos_deploy.presets import get_preset
from dedos_deploy.runtime.sinks.palette import spread_colour_bgr
from dedos_deploy.training.evaluate import evaluate
from dedos_deploy.training.folders import open_folder
from dedos_deploy.training.miniature.budget import (
    PRETRAINING_PART,
    RESERVE_PART,
    Cost,
    pretraining_plan,
    steps_for,
)
from dedos_deploy.training.miniature.curves import LINE, apart, draw_curves, read_curve
from dedos_deploy.training.miniature.plan import QUICK, MiniaturePlan, plan_from_json
from dedos_deploy.training.miniature.report import against, fillings, table
from dedos_deploy.training.miniature.run import run_miniature, shipped
from dedos_deploy.training.miniature.statistics import paired_difference, spread
from dedos_deploy.training.miniature.table3 import (
    FILLS,
    AskedTwice,
    Places,
    RunResult,
    Score,
    read_result,
    refined_part,
    run_settings,
    score_of,
)
from dedos_deploy.training.pretraining.scenes import BASE_WORDS, NOVEL_WORDS, WORDS
from dedos_deploy.training.targets import IGNORE


def test_spread_and_paired_difference_by_hand() -> None:
    found = spread([0.30, 0.34, 0.38])
    assert found.mean == pytest.approx(0.34) and found.deviation == pytest.approx(0.04)
    assert spread([0.5]).deviation is None
    gain = paired_difference([0.30, 0.34, 0.38], [0.33, 0.36, 0.42])
    # Differences 3, 2, 4 points: mean 3, deviation 1, t(0.975, 2) = 4.302653.
    half = 4.302653 * 0.01 / math.sqrt(3)
    assert gain.mean == pytest.approx(0.03)
    assert (gain.low, gain.high) == pytest.approx((0.03 - half, 0.03 + half), rel=1e-5)
    # t(0.8, 2) = 1.060660.
    assert gain.smallest == pytest.approx(half + 1.060660 * 0.01 / math.sqrt(3), rel=1e-5)
    # Of four looks each has 1.25 % a side: t(0.99375, 2) = 8.860200.
    four = paired_difference([0.30, 0.34, 0.38], [0.33, 0.36, 0.42], looks=4)
    assert four.low == pytest.approx(0.03 - 8.860200 * 0.01 / math.sqrt(3), rel=1e-5)


def score(base: float, novel: float) -> Score:
    return Score((base + novel) / 2, base, novel, novel, {})


def result(component: str, seed: int, base: float) -> RunResult:
    fills = {"static": score(base, 0.1), "ema": score(base + 0.01, 0.1)}
    fills["calibrated"] = score(base + 0.02, 0.1)
    fills["live"] = score(base + 0.03, 0.1)
    return RunResult(
        component, seed, score(base, 0.1), fills if component == "V" else {}, None, 1.0, 2.0
    )


def test_rows_pair_the_same_seeds_whatever_the_order_of_the_runs() -> None:
    plan = MiniaturePlan(components=("I", "V"), seeds=2)
    runs = [result("V", 1, 0.5), result("I", 0, 0.2), result("V", 0, 0.3), result("I", 1, 0.3)]
    first, last = table(plan, runs)
    assert "base_gain" not in first
    assert last["base_gain"]["mean"] == pytest.approx(0.15)
    assert last["base"]["mean"] == pytest.approx(0.4)
    rows = fillings(runs)
    assert [row["fill"] for row in rows] == ["static", "ema", "calibrated", "live"]
    assert rows[2]["base"]["mean"] == pytest.approx(0.42)


def test_controls_are_compared_with_the_baseline_and_with_no_diffusion() -> None:
    plan = MiniaturePlan(components=("I", "V0", "V", "oracle"), seeds=2)
    base = {"I": 0.2, "V0": 0.24, "V": 0.25, "oracle": 0.31}
    runs = [result(c, s, value + 0.01 * s) for c, value in base.items() for s in (0, 1)]
    rows = {row["component"]: row for row in table(plan, runs)}
    assert rows["V"]["gain_over_I"]["base"]["mean"] == pytest.approx(0.05)
    assert rows["V"]["gain_over_V0"]["base"]["mean"] == pytest.approx(0.01)
    assert rows["oracle"]["gain_over_V0"]["base"]["mean"] == pytest.approx(0.07)
    assert "gain_over_V0" not in rows["V0"] and "gain_over_I" in rows["V0"]
    # The row before a control is none that it adds to.
    assert "base_gain" not in rows["oracle"] and "base_gain" not in rows["V0"]


def test_a_use_is_compared_with_its_own_control_in_intervals_that_hold_together() -> None:
    rows = ("V0", "V", "V@30", "V-random", "V-clip", "V0-clip")
    plan = MiniaturePlan(components=rows, seeds=2)
    base = {c: (0.2 + 0.01 * n, 0.22 + 0.02 * n) for n, c in enumerate(rows)}
    runs = [result(c, s, value) for c, values in base.items() for s, value in enumerate(values)]
    found = {row["component"]: row for row in table(plan, runs)}
    assert {c: row.get("control") for c, row in found.items()} == {
        **dict.fromkeys(rows),
        "V": "V-random",
        "V-clip": "V0-clip",
    }
    # Five gains over (V0) and two over controls, in each of four groups.
    for use, control in (("V", "V-random"), ("V-clip", "V0-clip")):
        gain = found[use]["gain_over_control"]["base"]
        assert gain == asdict(paired_difference(base[control], base[use], looks=28))
    told = "\n".join(against(list(found.values())))
    assert "all 28 gains" in told and "(V-clip) over (V0-clip)" in told
    assert "over (I)" not in told and "over the control, base" in told


def test_intervals_of_all_gains_over_both_rows_hold_together() -> None:
    plan = MiniaturePlan(components=("I", "V0", "V", "oracle"), seeds=2)
    base = {"I": (0.2, 0.21), "V0": (0.24, 0.25), "V": (0.25, 0.28), "oracle": (0.3, 0.31)}
    runs = [result(c, s, value) for c, values in base.items() for s, value in enumerate(values)]
    rows = {row["component"]: row for row in table(plan, runs)}
    # Three gains over (I) and three over (V0), in each of four groups.
    one = paired_difference(base["V0"], base["V"], looks=24)
    assert rows["V"]["gain_over_V0"]["base"]["low"] == pytest.approx(one.low)


def test_what_is_shipped_is_never_a_control_beside_a_row_of_table_3() -> None:
    assert shipped(MiniaturePlan(components=("I", "V0", "V", "oracle"))) == "V"
    assert shipped(MiniaturePlan(components=("V0", "oracle"))) == "oracle"


def evaluated(words: Sequence[str], percent: Sequence[int | None]) -> EvaluationResult:
    """A result in which each word has that IoU: as many of 100 pixels, the others without a word."""
    cells = []
    for index, right in enumerate(percent):
        if right is not None:
            cells += [(index, index, right), (index, len(words), 100 - right)]
    record = ImageRecord("0", (1, 100), tuple(cells), (), 0.0)
    return result_of([record], tuple(words), predictor="p", data="all", seconds_total=0.0)


def test_base_and_novel_are_means_over_their_own_words() -> None:
    iou = [60 if word in BASE_WORDS else 20 for word in WORDS]
    absent = WORDS.index(NOVEL_WORDS[0])
    values = [None if index == absent else value for index, value in enumerate(iou)]
    alone = evaluated(NOVEL_WORDS, [40] * len(NOVEL_WORDS))
    found = score_of(evaluated(WORDS, values), alone)
    assert found.base == pytest.approx(0.6) and found.novel == pytest.approx(0.2)
    assert found.novel_alone == pytest.approx(0.4)


def test_refinement_that_adds_half_of_clip_moves_it_by_half() -> None:
    images = torch.randint(0, 256, (2, 32, 48, 3), dtype=torch.uint8)
    model = build_model(replace(get_preset("miniature"), refine_blocks=(5,)))
    assert refined_part(model, images) == 0.0
    with torch.no_grad():
        model.refinement.fuse.weight.mul_(1.5)
    assert refined_part(model, images) == pytest.approx(0.5, rel=1e-5)
    assert (
        refined_part(build_model(replace(get_preset("miniature"), refine_blocks=())), images)
        is None
    )


@pytest.mark.parametrize("live", [False, True])
def test_pictures_asked_twice_score_as_if_each_list_were_alone(
    write_folder: Write, monkeypatch: pytest.MonkeyPatch, live: bool
) -> None:
    folder = open_folder(str(write_folder(items=3)), split="train")
    few = replace(folder, background=IGNORE, words=("sky", None, "car"))
    model = build_model(micro_config(), seed=2)
    text, own = torch.nn.functional.normalize(torch.randn(3, 16), dim=-1), torch.randn(3, 1, 6, 16)
    rows = {"sky": text[0], "road": text[1], "car": text[2]}
    queries = (lambda item, _: own[item]) if live else None

    def embed(words: Sequence[str]) -> torch.Tensor:
        return torch.stack([rows[word] for word in words])

    expected = [evaluate(model, one, embed, (32, 32), queries=queries) for one in (folder, few)]
    made: list[int] = []
    features = model.image_features
    monkeypatch.setattr(model, "image_features", lambda *x: (made.append(1), features(*x))[1])
    asked = AskedTwice(model, (32, 32), queries)
    found = [asked.evaluated(one, embed(one.annotated)) for one in (folder, few)]
    assert [one.iou for one in found] == [one.iou for one in expected] and len(made) == 3


def test_components_of_a_seed_see_the_same_batches(tmp_path: Path) -> None:
    places = Places(
        tmp_path, tmp_path, tmp_path / "c.safetensors", tmp_path / "d", tmp_path / "cache"
    )
    plan = MiniaturePlan()
    first, last = (run_settings(plan, places, row, 2) for row in ("I", "V"))
    same = ("seed", "steps", "batch", "augmentation", "data", "clip_weights", "lr", "vocabulary")
    assert all(getattr(first, name) == getattr(last, name) for name in same)
    assert first.diffusion is None and last.diffusion is not None


def test_a_plan_survives_json() -> None:
    plan = MiniaturePlan(components=("II",), jobs=5, diffusion_minutes=None, vae_steps=3)
    assert plan_from_json(plan.to_json()) == plan
    assert plan.recipe() == replace(plan, jobs=1).recipe()
    with pytest.raises(BadInputError, match="seeds is 0, but must be at least 1"):
        MiniaturePlan(seeds=0)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"gamma": -1.0}, "gamma is -1.0, but must not be negative"),
        ({"lr": 0.0}, "lr is 0.0, but must be more than 0"),
        ({"components": ("V-shuffled",), "batch": 1}, "reads another picture of the micro-batch"),
        ({"diffusion_minutes": -5.0}, "diffusion_minutes is -5.0, but must be more than 0"),
        (
            {"gamma": 30.0, "components": ("V", "V@30")},
            "named twice in V V@30, where γ is 30 unless",
        ),
    ],
)
def test_what_a_run_would_refuse_is_refused_before_hours_of_pretraining(
    tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(BadInputError, match=told):
        run_miniature(replace(QUICK, **changes), tmp_path / "run", None, say=lambda _: None)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("option", ["--steps", "--clip-steps", "--diffusion-minutes"])
def test_minutes_leave_no_length_to_choose(
    tmp_path: Path, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["miniature", "--output", str(tmp_path / "run"), "--minutes", "60", option, "5"]
    assert main(command) == 2
    assert "leave out --quick, --regime, --steps, --clip-steps and" in capsys.readouterr().err


def test_minutes_become_steps_that_fill_them() -> None:
    plan = MiniaturePlan(minutes=60, components=("I", "V"), seeds=3, val=100, jobs=2)
    costs: dict[str, Cost] = {"I": Cost(0.5, 0.04, 10.0), "V": Cost(1.0, 0.05, 20.0)}
    steps = steps_for(plan, costs)
    # By hand: (I) is evaluated twice on 100 images after the trainer's once, (V) eight times.
    spent = 3 * ((10 + 300 * 0.04 + 0.5 * steps) + (20 + 900 * 0.05 + 1.0 * steps)) / 2
    share = 60 * 60 * (1 - PRETRAINING_PART - RESERVE_PART)
    assert share - 3 < spent <= share
    assert pretraining_plan(plan).clip_minutes == pytest.approx(12.0)
    one_by_one = pretraining_plan(replace(plan, jobs=1))
    assert one_by_one.clip_minutes == one_by_one.diffusion_minutes == pytest.approx(6.0)
    assert pretraining_plan(MiniaturePlan()) == MiniaturePlan()


def test_a_curve_is_the_mean_of_its_runs_without_the_consistency(tmp_path: Path) -> None:
    for number, height in enumerate((4.0, 6.0)):
        folder = tmp_path / str(number)
        folder.mkdir()
        lines = [
            {"step": step, "loss": height + 1.5, "terms": {"consist": 0.5}} for step in (10, 20, 30)
        ]
        (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    steps, losses = read_curve([tmp_path / "0", tmp_path / "1"], 3.0)
    assert steps.tolist() == [10, 20, 30] and losses == pytest.approx([5.0, 5.0, 5.0])
    falling = np.array([3.0, 2.0, 1.0])
    picture = draw_curves({"(I)": (steps, falling), "(V)": (steps, falling + 1.0)})
    assert picture.shape == (360, 640, 3)
    red = np.argwhere((picture == spread_colour_bgr(0)).all(-1))
    # (I) lies below (V) and falls: its first point is further up than its last one.
    assert red[red[:, 1].argmin(), 0] < red[red[:, 1].argmax(), 0]


def test_names_of_curves_stay_apart_and_in_the_picture() -> None:
    assert apart([5, 10, 100, 195], 200) == [5, 21, 100, 195]
    rows = apart([190] * 12, 200)
    assert rows[-1] == 200 and set(np.diff(rows)) == {LINE} and rows[0] > 0
    falling = (np.arange(3), np.array([3.0, 2.0, 1.0]))
    picture = draw_curves({f"(V-predict-random) {n}": falling for n in range(15)})
    right = (picture[:, 500:] < 250).any(-1)
    # The lowest of 15 names is written whole, and so is what is above it.
    assert right[340:356].any() and right[352 - 14 * LINE - 12 :].any(1).mean() > 0.5
    assert not right[:100].any()


@pytest.mark.slow
def test_the_whole_miniature_quickly(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    command = [
        "miniature",
        "--output",
        str(tmp_path / "run"),
        "--quick",
        "--components",
        "I",
        "V0",
        "oracle",
        "V",
        "--results",
        str(tmp_path / "results"),
    ]
    assert main(command) == 0
    shown = capfd.readouterr()
    assert "| (V) | (IV) + Text interaction |" in shown.out
    record = json.loads((tmp_path / "results/miniature.json").read_text())
    assert [row["component"] for row in record["table3"]] == ["I", "V0", "oracle", "V"]
    assert "Against the baseline, the method without a diffusion, and controls" in shown.out
    assert {row["fill"] for row in record["fillings"]} == set(FILLS)
    runs = [read_result(path) for path in sorted((tmp_path / "run/runs").glob("*/result.json"))]
    assert {run.component for run in runs} == {"I", "V0", "oracle", "V"}
    fills = {run.component: set(run.fillings) for run in runs}
    assert fills["oracle"] == {"static", "ema", "live"} and not fills["V0"]
    assert (tmp_path / "run/miniature.dedos").stat().st_size > 1e6
    for name in ("table3", "loss", "samples"):
        assert (tmp_path / f"results/miniature_{name}.png").is_file()
    assert main(command) == 0
    again = capfd.readouterr()
    assert "(V) seed 0: kept" in again.err and shown.out.endswith(again.out)
    assert main([*command, "--steps", "9"]) == 2
    assert "holds a miniature with other settings" in capfd.readouterr().err
    published = (tmp_path / "results/miniature.json").read_text(encoding="utf-8")
    assert str(tmp_path) not in published and "scenes/base" in published


def test_help_needs_nothing_heavy() -> None:
    program = (
        "import sys\nfrom dedos_deploy.cli.train import main\n"
        "try: main(['miniature', '--help'])\nexcept SystemExit: pass\n"
        "heavy = {'numpy', 'torch', 'cv2', 'diffusers'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0 and "--seeds" in done.stdout, done.stderr


def test_quick_differs_from_the_default_in_budgets_alone() -> None:
    assert QUICK.components == MiniaturePlan().components and QUICK.lr == MiniaturePlan().lr
