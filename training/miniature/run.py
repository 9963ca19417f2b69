"""The miniature as a whole: scenes, nano CLIP, nano diffusion, Table 3, fillings, bundle, report."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from dedos_deploy.errors import BadInputError, require
from dedos_deploy.files import write_atomically
from dedos_deploy.training.components import TABLE3
from dedos_deploy.training.miniature.budget import pretraining_plan, read_cost, steps_for
from dedos_deploy.training.miniature.jobs import Job, OnJob, run_jobs
from dedos_deploy.training.miniature.plan import MiniaturePlan
from dedos_deploy.training.miniature.pretraining import scenes, unlabelled_scenes
from dedos_deploy.training.miniature.report import Pretraining, write_report
from dedos_deploy.training.miniature.table3 import RESULT, Places, read_result, run_settings
from dedos_deploy.training.pretraining.scenes import write_folders, write_pictures

PLAN, SECONDS, STEPS = "plan.json", "seconds.json", "steps.json"
UNLABELLED = Path("scenes", "unlabelled")

TAUGHT_STEPS = 100
"""Fewer steps than this make no model whose exported graph could be held to its label maps."""

Say = Callable[[str], None]


def run_miniature(plan: MiniaturePlan, output: Path, results: Path | None, *, say: Say) -> Path:
    """Run every part that is not done yet and return the report's markdown file.

    output: folder of the miniature; results: where miniature.json, miniature.md and its pictures
    go, too; say: told one line per event.

    Raises BadInputError when `output` holds a miniature of another plan or cannot be written,
    JobFailedError when a part fails. After an interrupt the same call goes on.
    """
    places = Places(
        output / "scenes" / "base",
        output / "scenes" / "all",
        output / "clip" / "checkpoint.safetensors",
        output / "diffusion",
        output / "cache",
    )
    for row in plan.components:
        # What a run would refuse after both pretrainings is refused now.
        run_settings(plan, places, row, seed=0)
    _open(plan, output)
    told = _teller(say, output)
    _data(plan, output, say)
    pretraining = _pretraining(pretraining_plan(plan), places, output)
    run_jobs(pretraining, at_once=plan.jobs, on_job=told)
    if plan.minutes is not None:
        plan = _timed(plan, places, output, told, say)
    runs = _table(plan, places, output)
    run_jobs(runs, at_once=plan.jobs, on_job=told)
    found = [read_result(job.done) for job in runs]
    bundle = _export(plan, output, say)
    seconds = json.loads((output / SECONDS).read_text(encoding="utf-8"))
    shutil.rmtree(places.cache, ignore_errors=True)
    before = Pretraining(
        _json(output / "clip" / "report.json"), _json(output / "diffusion" / "report.json")
    )
    folders = [folder for folder in (output, results) if folder is not None]
    for folder in folders:
        write_report(folder, plan, found, before, seconds, places, output, bundle)
    return folders[-1] / "miniature.md"


def _open(plan: MiniaturePlan, output: Path) -> None:
    path = output / PLAN
    if path.exists():
        if path.read_text(encoding="utf-8") != plan.recipe():
            raise BadInputError(
                f"{output} holds a miniature with other settings; repeat its options, or choose "
                "another --output"
            )
        return
    try:
        output.mkdir(parents=True, exist_ok=True)
        write_atomically(output / SECONDS, b"{}")
        write_atomically(path, plan.recipe().encode())
    except OSError as error:
        raise BadInputError(
            f"cannot write to {output} ({error.strerror}); choose another --output"
        ) from error


def _teller(say: Say, output: Path) -> OnJob:
    """Return what reports jobs and adds up their time, over interruptions."""
    path = output / SECONDS

    def told(job: Job, event: str, seconds: float) -> None:
        if event in ("done", "stopped"):
            known = json.loads(path.read_text(encoding="utf-8"))
            known[job.name] = round(known.get(job.name, 0.0) + seconds, 1)
            write_atomically(path, json.dumps(known).encode())
        timed = f" after {seconds:.0f} s" if event == "done" else ""
        say(f"{job.name}: {event}{timed}")

    return told


def _data(plan: MiniaturePlan, output: Path, say: Say) -> None:
    done = output / "scenes" / "done"
    if done.exists():
        say("scenes: kept")
        return
    started = time.monotonic()
    train, val = scenes(plan)
    write_folders(output / "scenes", train=train, val=val)
    unlabelled = unlabelled_scenes(plan)
    if unlabelled is not None:
        write_pictures(output / UNLABELLED, unlabelled)
    done.touch()
    further = f" + {plan.unlabelled}" if plan.unlabelled else ""
    spent = time.monotonic() - started
    say(f"scenes: {plan.train} + {plan.val}{further} rendered after {spent:.0f} s")


def _pretraining(plan: MiniaturePlan, places: Places, output: Path) -> list[Job]:
    pictures = places.base / "images" / "train"
    if plan.unlabelled is not None:
        pictures = output / UNLABELLED
    return [
        Job(
            learner,
            "dedos_deploy.training.miniature.pretraining",
            (plan.to_json(), learner, str(pictures), str(output / learner)),
            output / learner / "report.json",
            output / f"{learner}.log",
        )
        for learner in ("diffusion", "clip")
    ]


def _timed(
    plan: MiniaturePlan, places: Places, output: Path, told: OnJob, say: Say
) -> MiniaturePlan:
    """Return `plan` with the steps that its minutes allow; measured once, so that runs agree."""
    chosen = output / STEPS
    if not chosen.exists():
        folder = output / "timing"
        folder.mkdir(exist_ok=True)
        jobs = [
            Job(
                f"timing of ({component})",
                "dedos_deploy.training.miniature.budget",
                (plan.to_json(), _named(places), component, str(folder)),
                folder / f"{component}.json",
                folder / f"{component}.log",
            )
            for component in plan.components
        ]
        run_jobs(jobs, at_once=plan.jobs, on_job=told)
        costs = {c: read_cost(folder / f"{c}.json") for c in plan.components}
        write_atomically(chosen, json.dumps(steps_for(plan, costs)).encode())
    steps = int(json.loads(chosen.read_text(encoding="utf-8")))
    say(f"{steps} steps for every run")
    return replace(plan, steps=steps)


def _named(places: Places) -> str:
    return json.dumps({name: str(path) for name, path in asdict(places).items()})


def _table(plan: MiniaturePlan, places: Places, output: Path) -> list[Job]:
    jobs = []
    for seed in range(plan.seeds):
        for component in plan.components:
            folder = output / "runs" / f"{component}_{seed}"
            jobs.append(
                Job(
                    f"({component}) seed {seed}",
                    "dedos_deploy.training.miniature.table3",
                    (plan.to_json(), _named(places), component, str(folder), str(seed)),
                    folder / RESULT,
                    output / "runs" / f"{component}_{seed}.log",
                )
            )
    return jobs


def shipped(plan: MiniaturePlan) -> str:
    """Return the last row of Table 3 in `plan`, or the last control if there is no such row."""
    rows = [component for component in plan.components if component in TABLE3]
    return (rows or plan.components)[-1]


def _export(plan: MiniaturePlan, output: Path, say: Say) -> Path:
    """Write the bundle of the component to ship under seed 0."""
    bundle = output / "miniature.dedos"
    if bundle.exists():
        say("bundle: kept")
        return bundle
    require("onnxscript", extra="export", purpose="exporting a model")
    from dedos_deploy.export import ExportOptions, WeightsSource, export_bundle

    checkpoint = output / "runs" / f"{shipped(plan)}_0" / "checkpoint.safetensors"
    # Scores of a model that hardly learned are all but equal: rounding decides between them.
    drift = plan.steps < TAUGHT_STEPS
    options = ExportOptions(storage="half", size_hw=plan.size_hw, allow_drift=drift)
    report = export_bundle(WeightsSource(checkpoint), bundle, options=options)
    for warning in report.warnings:
        say(f"bundle: {warning}")
    say(f"bundle: {bundle}")
    return bundle


def _json(path: Path) -> dict[str, object]:
    values: dict[str, object] = json.loads(path.read_text(encoding="utf-8"))
    return values
