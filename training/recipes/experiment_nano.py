"""The experiment: a nano model from all sets, CamVid among them, scored through its FP32 bundle.

    python -m dedos_deploy.training.recipes.experiment_nano --material DIR --work work --minutes 45 --fine-minutes 15

CamVid is for non-commercial use, and so is what this makes: the weights are never shipped. DIR is
that of embedded_nano.py with camvid/ beside the others; what that recipe has made is used again.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace

from dedos_deploy.evaluation import evaluate_bundle
from dedos_deploy.export import ExportOptions, WeightsSource, export_bundle
from dedos_deploy.training.recipes.embedded_nano import PRETRAINING
from dedos_deploy.training.recipes.nano_recipe import Recipe, add_arguments, run_recipe

SHARES: dict[str, float] = {
    "camvid": 4,
    "ccp_street": 0.3,
    "davis_street": 0.5,
    "udacity_highway": 0.5,
    "lums_road": 1,
    "dhcn_hall": 0.2,
    "tqb_hall": 0.3,
    "scenes_street": 0.2,
}
"""How often an epoch shows each picture of a set: two thirds are CamVid's."""


def main() -> None:
    """Run the recipe as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser, minutes=45, fine_minutes=15)
    args = parser.parse_args()
    raise SystemExit(run_recipe(lambda: make(args)))


def make(args: argparse.Namespace) -> None:
    """Train, export and score the model."""
    recipe = Recipe(args.material, args.work, args.threads)
    recipe.make_nets()
    recipe.make_scenes()
    recipe.make_pseudo_labels()
    recipe.make_text_tower(args.word_steps)
    start = recipe.make_trunk(PRETRAINING, args.trunk_minutes)
    # its own diffusion: CamVid's pictures must never reach the model that ships
    with_camvid = replace(recipe, tag="_camvid")
    pictures = {**PRETRAINING, "camvid": 1}
    diffusion = with_camvid.make_diffusion(pictures, start, args.diffusion_minutes)
    minutes = (args.minutes, args.fine_minutes)
    run = with_camvid.train_twice("experiment", SHARES, start, diffusion, minutes=minutes)
    bundle = args.work / "experiment.dedos"
    camvid = args.material / "camvid"
    # Near the 480x360 of the pictures; thin and far things need it.
    options = ExportOptions(size_hw=(352, 480), overwrite=True, frames=camvid / "images" / "val")
    export_bundle(WeightsSource(run / "checkpoint.safetensors"), bundle, options=options)
    found = evaluate_bundle(bundle, camvid, "val", threads=args.threads)
    print(json.dumps(found.to_dict(), indent=1))


if __name__ == "__main__":
    main()
