"""The miniature's report: figures as JSON, Table 3 as markdown, a sheet of pictures."""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dedos_deploy.files import write_atomically
from dedos_deploy.model import load_checkpoint
from dedos_deploy.model.word_embeddings import WordEmbeddings
from dedos_deploy.threads import usable_cores
from dedos_deploy.training.components import CONTROL_OF, TABLE3, Component
from dedos_deploy.training.folders import open_folder
from dedos_deploy.training.miniature.curves import draw_curves, read_curve
from dedos_deploy.training.miniature.plan import MiniaturePlan, Row
from dedos_deploy.training.miniature.statistics import (
    Difference,
    Spread,
    paired_difference,
    spread,
)
from dedos_deploy.training.miniature.table3 import FILLS, Places, RunResult, Score
from dedos_deploy.training.preview import sample_rows, write_picture

NAMES: dict[Component, str] = {
    "I": "Baseline",
    "II": "(I) + Proxy queries (once)",
    "III": "(II) + Progressive learning",
    "IV": "(III) + Decoupling",
    "V": "(IV) + Text interaction",
    "V0": "(V), no diffusion",
    "V-random": "(V), noise predictor of random weights",
    "V-shuffled": "(V), features of another picture",
    "oracle": "(V), true labels as features",
    "V-predict": "(V0) + CLIP's tokens predict the diffusion's features",
    "V-predict-random": "(V-predict), noise predictor of random weights",
    "V-mixed": "(V), several banks mixed by the picture's CLS",
    "V0-mixed": "(V-mixed), no diffusion",
    "V-clip": "(V), queries read CLIP, taught to equal the denoised",
    "V0-clip": "(V-clip), no diffusion",
}
OVER_CONTROL = "gain_over_control"
GAINS = {"gain_over_I": "(I)", "gain_over_V0": "(V0)", OVER_CONTROL: "the control"}
"""Comparisons that hold together, and what each is over."""


def row_name(name: str) -> str:
    """Return what a row is, in words."""
    row = Row.named(name)
    told = NAMES[row.component]
    return told if row.gamma is None else f"({row.component}), γ = {row.gamma:g}"


GROUPS = ("all", "base", "novel", "novel_alone")
PICTURES = 7
"""Scenes on the sheet: odd, since evenly spread over alternating kinds an even number shows one."""


@dataclass(frozen=True)
class Pretraining:
    """Reports of the nano CLIP and the nano diffusion, as JSON values."""

    clip: dict[str, Any]
    diffusion: dict[str, Any]


def write_report(
    folder: Path,
    plan: MiniaturePlan,
    runs: Sequence[RunResult],
    pretraining: Pretraining,
    seconds: dict[str, float],
    places: Places,
    output: Path,
    bundle: Path,
) -> None:
    """Write miniature.json, miniature.md and miniature_*.png into `folder`, as it came out."""
    folder.mkdir(parents=True, exist_ok=True)
    record = {
        "plan": json.loads(plan.to_json()),
        "machine": {
            "cpus": usable_cores(),
            "python": platform.python_version(),
            "torch": torch.__version__,
        },
        "seconds": seconds,
        "clip": pretraining.clip,
        "diffusion": _without_paths(pretraining.diffusion, output),
        "table3": table(plan, runs),
        "fillings": fillings(runs),
        "runs": [asdict(run) for run in runs],
        "bundle_bytes": bundle.stat().st_size,
    }
    write_atomically(folder / "miniature.json", (json.dumps(record, indent=1) + "\n").encode())
    write_atomically(folder / "miniature.md", markdown(plan, runs, record).encode())
    write_picture(folder / "miniature_table3.png", _sheet(plan, places, output))
    curves = {
        f"({c})": read_curve(
            [output / "runs" / f"{c}_{seed}" for seed in range(plan.seeds)],
            Row.named(c).gamma or plan.gamma,
        )
        for c in plan.components
    }
    write_picture(folder / "miniature_loss.png", draw_curves(curves))
    for name in ("reconstructions", "samples"):
        source = output / "diffusion" / f"{name}.png"
        if source.exists():
            shutil.copyfile(source, folder / f"miniature_{name}.png")


def _without_paths(report: dict[str, Any], output: Path) -> dict[str, Any]:
    """Return a report whose data folders are named from the miniature's own: results are published."""
    settings = report["settings"]
    data = [path.removeprefix(f"{output}/") for path in settings["data"]]
    return {**report, "settings": {**settings, "data": data}}


def table(plan: MiniaturePlan, runs: Sequence[RunResult]) -> list[dict[str, Any]]:
    """Return one record per component: means, deviations, differences to the row before.

    `gain_over_I` and `gain_over_V0` are those to the baseline and to the method without a diffusion,
    `gain_over_control` those to the row's own control, which `control` names, where the plan has them; the
    intervals of all of them hold together at 95 %.
    """
    looks = len(GROUPS) * sum(len(_bars(plan, row)) for row in plan.components)
    rows: list[dict[str, Any]] = []
    found = {
        component: sorted((r for r in runs if r.component == component), key=lambda r: r.seed)
        for component in plan.components
    }
    before: str | None = None
    for component, mine in found.items():
        row: dict[str, Any] = {"component": component, "name": row_name(component)}
        for group in GROUPS:
            row[group] = asdict(spread(_scores(mine, group)))
            if before is not None and component in TABLE3:
                row[f"{group}_gain"] = asdict(_gain_over(found[before], mine, group))
        for gain, bar in _bars(plan, component).items():
            row[gain] = {
                group: asdict(_gain_over(found[bar], mine, group, looks=looks)) for group in GROUPS
            }
            if gain == OVER_CONTROL:
                row["control"] = bar
        before = component
        moved = [run.refined for run in mine if run.refined is not None]
        row["refined"] = asdict(spread(moved)) if moved else None
        row["seconds"] = spread([run.seconds for run in mine]).mean
        rows.append(row)
    return rows


def _scores(runs: Sequence[RunResult], group: str) -> list[float]:
    return [getattr(run.score, group) for run in runs]


def _gain_over(
    bar: Sequence[RunResult], runs: Sequence[RunResult], group: str, *, looks: int = 1
) -> Difference:
    return paired_difference(_scores(bar, group), _scores(runs, group), looks=looks)


def _bars(plan: MiniaturePlan, name: str) -> dict[str, str]:
    """Return which rows of the plan a row is compared with, by the names of GAINS."""
    row = Row.named(name)
    # A control has the γ of the plan.
    control = CONTROL_OF.get(row.component) if row.gamma is None else None
    bars = dict(zip(GAINS, ("I", "V0", control), strict=True))
    return {gain: bar for gain, bar in bars.items() if bar in plan.components and bar != name}


def fillings(runs: Sequence[RunResult]) -> list[dict[str, Any]]:
    """Return one record per component and filling of the bank."""
    rows = []
    for component in dict.fromkeys(run.component for run in runs if run.fillings):
        mine = [run for run in runs if run.component == component]
        for fill in [fill for fill in FILLS if fill in mine[0].fillings]:
            scores: list[Score] = [run.fillings[fill] for run in mine]
            row: dict[str, Any] = {"component": component, "fill": fill}
            row.update({g: asdict(spread([getattr(s, g) for s in scores])) for g in GROUPS})
            rows.append(row)
    return rows


def markdown(plan: MiniaturePlan, runs: Sequence[RunResult], record: dict[str, Any]) -> str:
    """Return the report as text: every number is in the record, nothing is left out."""
    clip, diffusion = record["clip"], record["diffusion"]
    lines = [
        "# The method in miniature",
        "",
        f"Written by `dedos-train miniature`: {plan.train} procedural scenes of "
        f"{plan.size_hw[0]}x{plan.size_hw[1]}, {plan.steps} steps of {plan.batch} for each of "
        f"{len(runs)} runs; mIoU in percent on {plan.val} scenes never seen, mean ± sample standard "
        f"deviation over {plan.seeds} seed{'s' if plan.seeds > 1 else ''}. Novel words were only "
        "ever named in captions; `novel alone` asks for them alone, on their own pixels, where no "
        f"base word competes.{_apart(plan)} It exercises the method; it claims nothing about real scenes.",
        "",
        "| | component | all words | base | novel | novel alone | gain on base | gain on novel alone "
        "| moves CLIP |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in record["table3"]:
        gains = [_gain(row.get(f"{group}_gain")) for group in ("base", "novel_alone")]
        moved = str(Spread(**row["refined"])) if row["refined"] else ""
        cells = [*(str(Spread(**row[group])) for group in GROUPS), *gains, moved]
        lines.append(f"| ({row['component']}) | {row['name']} | {' | '.join(cells)} |")
    lines += [
        "",
        "Gains are over the row above, paired by seed, in points with their 95 % interval (Student's "
        "t): an interval that holds 0 shows no gain. `Moves CLIP`: how far the refinement by proxy "
        "queries takes the trunk's last patch tokens from plain CLIP's, in percent of their length.",
    ]
    lines += against(record["table3"])
    if record["fillings"]:
        lines += [
            "",
            "## Fillings of the proxy bank",
            "",
            "| component | filling | all words | base | novel | novel alone |",
            "|---|---|---|---|---|---|",
        ]
        for row in record["fillings"]:
            cells = [str(Spread(**row[group])) for group in GROUPS]
            lines.append(f"| ({row['component']}) | {row['fill']} | {' | '.join(cells)} |")
    regions, patches = clip["regions"], clip["patches"]
    psnr = diffusion["figures"]["psnr_db"]
    lines += [
        "",
        "## What came before",
        "",
        f"- nano CLIP, {clip['steps']} steps: zero-shot accuracy on held-out regions "
        f"{_percent(regions['all'])} (base {_percent(regions['base'])}, novel "
        f"{_percent(regions['novel'])}, chance {_percent(clip['chance'])}); IoU of the nearest word "
        f"of each patch {_percent(patches['all'])}.",
        f"- nano diffusion: reconstructions {psnr['mean']:.1f} dB (worst {psnr['worst']:.1f}), "
        f"{psnr['walked']:.1f} dB after the walk; pictures in miniature_reconstructions.png and "
        "miniature_samples.png.",
        f"- seconds: {', '.join(f'{name} {value:.0f}' for name, value in record['seconds'].items())}"
        f" ({plan.jobs} at a time, one thread each).",
        "",
        f"miniature_table3.png: picture, labels, ({plan.components[0]}), and ({plan.components[-1]}), "
        "seed 0. miniature_loss.png: "
        "the segmentation loss of every row over its steps, mean over seeds.",
        "",
    ]
    return "\n".join(lines)


def _apart(plan: MiniaturePlan) -> str:
    if plan.unlabelled is None:
        return ""
    return (
        f" CLIP and the diffusion learned from {plan.unlabelled} other scenes without labels: no mask "
        "taught CLIP."
    )


def against(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return a table of gains over (I), over (V0) and over controls, as far as there are any."""
    compared = {gain: bar for gain, bar in GAINS.items() if any(gain in row for row in rows)}
    if not compared:
        return []
    groups = ("all", "base", "novel_alone")
    lines = ["", "## Against the baseline, the method without a diffusion, and controls", ""]
    heads = [
        f"over {bar}, {group.replace('_', ' ')}" for bar in compared.values() for group in groups
    ]
    lines += [f"| | {' | '.join(heads)} |", "|---" * (1 + len(heads)) + "|"]
    for row in rows:
        cells = [_gain(row.get(gain, {}).get(group)) for gain in compared for group in groups]
        named = f"({row['component']})" + (f" over ({row['control']})" if "control" in row else "")
        lines.append(f"| {named} | {' | '.join(cells)} |")
    count = len(GROUPS) * sum(gain in row for row in rows for gain in compared)
    found = [row["gain_over_V0"]["base"]["smallest"] for row in rows if "gain_over_V0" in row]
    known = [value for value in found if value is not None]
    told = (
        f" So many seeds find a gain of {100 * max(known):.1f} points on base words four times in five."
        if known
        else ""
    )
    return [
        *lines,
        "",
        f"Paired by seed; intervals of all {count} gains hold together at 95 % (Bonferroni).{told}",
    ]


def _gain(values: dict[str, Any] | None) -> str:
    return str(Difference(**values)) if values else ""


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _sheet(
    plan: MiniaturePlan, places: Places, output: Path
) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return rows of picture, labels, and the answers of the first and the last component."""
    folder = open_folder(str(places.everything), split="val")
    shown = []
    for component in dict.fromkeys((plan.components[0], plan.components[-1])):
        model, _ = load_checkpoint(output / "runs" / f"{component}_0" / "checkpoint.safetensors")
        embeddings = WordEmbeddings(model, folder.annotated, template="single", tuned=False)
        text = embeddings(range(len(folder.annotated)))
        shown.append(sample_rows(model, folder, text, plan.size_hw, PICTURES))
    rows = []
    for first, last in zip(shown[0], shown[-1], strict=True):
        rows.append(
            np.concatenate(
                [first.image, first.labels, first.answer, last.answer, last.legend], axis=1
            )
        )
    return np.concatenate(rows)
