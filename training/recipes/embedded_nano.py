"""The recipe of the weights that continued_nano.py goes on from, from raw material to two files.

    python -m dedos_deploy.training.recipes.embedded_nano --material DIR --work work --assets out

DIR holds, as published (see docs/nano.md for where each comes from):
  dhcn_hall/ tqb_hall/ lums_road/ ccp_people/   label folders
  videos/ davis16/    videos, and DAVIS 2016 frames as images/<sequence>/*.jpg
  weights/            the teachers as .tflite, and tflite_to_onnx.py

Only permissive material: nothing of it is non-commercial. With --without tqb_hall no part of the
model sees that building, and it can be scored on it. The weights that ship began with an earlier
version of this, without views in less light. Needs the extras [train], [export] and [words].
"""

from __future__ import annotations

import argparse
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

from dedos_deploy.export import ExportOptions, WeightsSource, export_bundle
from dedos_deploy.model import load_checkpoint, save_checkpoint
from dedos_deploy.training.recipes.nano_recipe import (
    BALANCED,
    CONTINUED,
    DARKEN,
    Recipe,
    add_arguments,
    run_recipe,
)
from dedos_deploy.training.recipes.nano_sets import credited

SHARES: dict[str, float] = {
    "scenes_street": 0.35,
    "scenes_hall": 0.35,
    "dhcn_hall": 1,
    "tqb_hall": 1.5,
    "lums_road_completed": 4,
    "ccp_street": 1,
    "davis_street": 2,
    "davis_nature": 1,
    "udacity_highway": 3,
    "intel_car": 1,
    "intel_people": 1,
}
"""How often an epoch shows each picture of a set."""

HALL_SCENES = 1.0
"""The share of scenes_hall here, instead of that in SHARES: without tqb_hall hardly a ceiling comes from elsewhere."""

HALL_KINDS = ("pillar=wall", "lamp=ceiling")
"""What the scenes' halls have words for and labels of real halls do not."""

PRETRAINING = {
    name: share
    for name, share in SHARES.items()
    if name != "tqb_hall" and not name.startswith("scenes")
}
"""What trunk and diffusion see, but for sets left out: real pictures, and never the hall that models are scored
on with `--without tqb_hall`, so that one pretraining serves both."""

TRUSTED = (
    "dhcn_hall",
    "tqb_hall",
    "lums_road_completed",
    "ccp_street",
    "davis_street",
    "udacity_highway",
    "scenes_street",
    "scenes_hall",
)
"""Sets whose frames the model is trusted on: neither cars from above nor animals, of which teachers know little."""

LICENCE = "Apache-2.0; trained on the sources named here, the CC BY 4.0 ones with credit"


def main() -> None:
    """Run the recipe as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser, minutes=60, fine_minutes=20)
    parser.add_argument("--assets", type=Path, required=True, help="where the two files go")
    parser.add_argument(
        "--without",
        action="extend",
        nargs="+",
        default=[],
        choices=sorted(SHARES),
        metavar="SET",
        help="leave these sets out, to be scored on them",
    )
    args = parser.parse_args()
    raise SystemExit(run_recipe(lambda: make(args)))


def make(args: argparse.Namespace) -> None:
    """Make the two files from the material."""
    recipe = Recipe(args.material, args.work, args.threads)
    args.assets.mkdir(parents=True, exist_ok=True)
    shares = {
        name: HALL_SCENES if name == "scenes_hall" else share
        for name, share in SHARES.items()
        if name not in args.without
    }
    recipe.make_nets()
    recipe.make_scenes()
    recipe.make_pseudo_labels()
    recipe.make_text_tower(args.word_steps)
    pictures = {name: share for name, share in PRETRAINING.items() if name not in args.without}
    before = replace(recipe, tag=_tag(set(PRETRAINING) & set(args.without)))
    start = before.make_trunk(pictures, args.trunk_minutes)
    diffusion = before.make_diffusion(pictures, start, args.diffusion_minutes)
    kinds = CONTINUED["kinds"] + (HALL_KINDS if "scenes_hall" in shares else ())
    varied = {"darken": DARKEN, "kinds": kinds}
    run = replace(recipe, tag=_tag(args.without)).train_twice(
        "run",
        shares,
        start,
        diffusion,
        minutes=(args.minutes, args.fine_minutes),
        coarse={**varied, "rare": CONTINUED["rare"], "paste": CONTINUED["paste"]},
        fine={**CONTINUED, **varied, "balance": BALANCED},
    )
    export(recipe, run, shares, args.assets)


def _tag(without: Collection[str]) -> str:
    return "".join(f"_without_{name}" for name in sorted(set(without)))


def export(recipe: Recipe, run: Path, shares: Mapping[str, float], assets: Path) -> None:
    """Write the compact weights and the bundle of a finished run. shares: of the sets that it learned from."""
    model, record = load_checkpoint(run / "checkpoint.safetensors")
    kept = {key: record[key] for key in ("step", "words", "template", "size_hw")}
    extra = {**kept, "sources": credited(record["sources"]), "licence": LICENCE}
    weights = assets / "nano.safetensors"
    save_checkpoint(weights, model, extra=extra, compact=True)
    options = ExportOptions(
        storage="half",
        examples=True,
        trust=tuple(recipe.place(name) / "images/train" for name in TRUSTED if name in shares),
        overwrite=True,
    )
    report = export_bundle(WeightsSource(weights), assets / "demo.dedos", options=options)
    print(f"{report.path}: {report.size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
