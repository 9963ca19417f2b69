"""The regimes of the miniature: rows with a γ of their own, scenes without labels, each end to end."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from micro import micro_config

from dedos_deploy import presets
from dedos_deploy.cli.train import main
from dedos_deploy.errors import BadInputError
from dedos_deploy.training.miniature import plan as plans
from dedos_deploy.training.miniature import pretraining
from dedos_deploy.training.miniature import run as whole
from dedos_deploy.training.miniature.budget import Cost, scored_images, steps_for
from dedos_deploy.training.miniature.jobs import Job
from dedos_deploy.training.miniature.plan import REGIMES, MiniaturePlan, Row, regime_plan
from dedos_deploy.training.miniature.report import row_name
from dedos_deploy.training.miniature.table3 import Places, read_result, run_settings
from dedos_deploy.training.pretraining.scenes import SceneSet


def places(folder: Path) -> Places:
    return Places(folder, folder, folder / "c.safetensors", folder / "d", folder / "cache")


def test_regimes_are_those_that_the_documents_name() -> None:
    long, few, gamma = (regime_plan(name, quick=False) for name in REGIMES)
    assert long.steps == 3000 and replace(long, steps=300, components=()) == replace(
        MiniaturePlan(), components=()
    )
    assert (few.train, few.unlabelled) == (100, 30_000)
    gammas = {Row.named(row).gamma or gamma.gamma for row in gamma.components if row[:2] != "V0"}
    assert gammas == {1.0, 30.0, 300.0}
    # A gain is one over V0, and one of something else than further parameters.
    assert all({"I", "V0", "V"} <= {*plan.components} for plan in (long, few, gamma))
    with pytest.raises(BadInputError, match="unknown regime 'lang'; known are long, few-labels"):
        regime_plan("lang", quick=False)


def test_a_row_has_the_gamma_of_its_name(tmp_path: Path) -> None:
    plan = MiniaturePlan(components=("I", "V", "V@30"), gamma=2.0)
    rows = [run_settings(plan, places(tmp_path), row, 1) for row in plan.components]
    assert [row.gamma for row in rows[1:]] == [2.0, 30.0]
    assert replace(rows[2], gamma=2.0) == rows[1]
    assert row_name("V@30") == "(V), γ = 30" and row_name("V0") == "(V), no diffusion"
    assert scored_images(plan, "V@30") == scored_images(plan, "V")
    costs = {row: Cost(1.0, 0.0, 0.0) for row in plan.components}
    assert steps_for(replace(plan, minutes=60.0), costs) > 100
    for name, told in (
        ("V0@30", "row 'V0@30' has no γ"),
        ("V@much", "row 'V@much' has no γ"),
        ("V@0", "row 'V@0' has no γ"),
        ("VI", "unknown component 'VI'"),
    ):
        with pytest.raises(BadInputError, match=told):
            MiniaturePlan(components=(name,))
    with pytest.raises(BadInputError, match="a row is named twice"):
        MiniaturePlan(components=("V", "V"))


def test_what_is_predicted_is_read_where_it_is_predicted(tmp_path: Path) -> None:
    row = run_settings(MiniaturePlan(), places(tmp_path), "V-predict", 0)
    assert row.view == "crop" and row.diffusion_cache is None and row.bank_drop == 0.5
    assert run_settings(MiniaturePlan(), places(tmp_path), "V-clip", 0).diffusion_cache is not None


def test_without_labels_pictures_and_captions_teach_and_no_mask_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: dict[str, Any] = {}

    def clip(config: Any, scenes: SceneSet, settings: Any, output: Path, **_: Any) -> None:
        told["clip"] = (scenes.seed, len(scenes), settings.regions)

    def diffusion(data: Sequence[str], *_: Any, **__: Any) -> None:
        told["diffusion"] = data

    monkeypatch.setattr(pretraining, "pretrain_clip", clip)
    monkeypatch.setattr(pretraining, "pretrain_diffusion", diffusion)
    plan = MiniaturePlan(size_hw=(64, 64), train=3, val=1, unlabelled=5)
    whole._data(plan, tmp_path, lambda _: None)
    where = places(tmp_path / "scenes")
    where = replace(where, base=tmp_path / "scenes" / "base")
    for job in whole._pretraining(plan, where, tmp_path):
        pretraining.main(job.arguments)
    assert told["clip"] == (pretraining.UNLABELLED_SEED, 5, 0.0)
    (folder,) = told["diffusion"]
    assert len(list(Path(folder).iterdir())) == 5 and not list(Path(folder).rglob("*.png"))
    assert len(list((tmp_path / "scenes/base/images/train").iterdir())) == 3
    for job in whole._pretraining(replace(plan, unlabelled=None), where, tmp_path):
        pretraining.main(job.arguments)
    assert told["clip"] == (pretraining.TRAIN_SEED, 3, 1.0)
    assert told["diffusion"] == (str(where.base / "images" / "train"),)
    with pytest.raises(BadInputError, match="unlabelled is 1, but must be at least 2"):
        replace(plan, unlabelled=1)


def in_this_process(jobs: Sequence[Job], *, at_once: int, on_job: Any) -> None:
    for job in jobs:
        if not job.done.exists():
            import_module(job.module).main(list(job.arguments))
            assert job.done.exists()
            on_job(job, "done", 0.0)


@pytest.mark.parametrize(
    ("regime", "rows"), [("long", "V0"), ("few-labels", "V-clip"), ("gamma", "V@30")]
)
def test_a_regime_goes_through_end_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, regime: str, rows: str
) -> None:
    """The command itself on a model of a few channels; its jobs run here instead of in processes, and
    the bundle, which other tests export, is there already."""
    tiny = replace(
        plans.QUICK,
        size_hw=(64, 64),
        train=8,
        val=2,
        steps=1,
        calibration=2,
        bank_drop=0.0,
        clip_steps=1,
        vae_steps=1,
        unet_steps=1,
    )
    monkeypatch.setattr(plans, "QUICK", tiny)
    monkeypatch.setattr(whole, "run_jobs", in_this_process)
    config = replace(micro_config(), preset="miniature")
    monkeypatch.setitem(presets.PRESETS, "miniature", config)
    output = tmp_path / "run"
    command = ["miniature", "--output", str(output), "--quick", "--regime", regime]
    command += ["--components", "V0", *({rows} - {"V0"})]
    output.mkdir()
    (output / "miniature.dedos").write_bytes(b"a bundle")
    assert main(command) == 0
    record = json.loads((output / "miniature.json").read_text())
    assert [row["component"] for row in record["table3"]] == ["V0", *({rows} - {"V0"})]
    for row in record["table3"][1:]:
        assert {"all", "base", "novel", "novel_alone"} == row["gain_over_V0"].keys()
        assert read_result(output / "runs" / f"{row['component']}_0" / "result.json").fillings
    assert record["plan"]["unlabelled"] == (8 if regime == "few-labels" else None)
    assert ("learned from 8 other scenes" in (output / "miniature.md").read_text()) == (
        regime == "few-labels"
    )
    if regime == "gamma":
        settings = json.loads((output / "plan.json").read_text())
        assert settings["components"] == ["V0", "V@30"] and settings["gamma"] == 1.0
