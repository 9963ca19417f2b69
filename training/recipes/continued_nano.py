"""The recipe of the embedded weights: those before go on, from raw material to two files.

    python -m dedos_deploy.training.recipes.continued_nano --material DIR --work work --assets out

DIR is that of embedded_nano.py, and so is its licence: only permissive material. Pictures are 352x480, half
of them are drawn by rare words. In a first part rare words weigh somewhat more, in a second one much more, so
that roads do not swallow sidewalks. Neither trunk nor diffusion is made again, so the proxy bank stays what it
is. Stopped or killed, the same command goes on; a state is saved every five minutes. Needs the extras [train]
and [export].
"""

from __future__ import annotations

import argparse
from pathlib import Path

from dedos_deploy.training.recipes.embedded_nano import SHARES, export
from dedos_deploy.training.recipes.nano_recipe import BALANCED, CONTINUED, Recipe, run_recipe
from dedos_deploy.training.setup import EMBEDDED


def main() -> None:
    """Run the recipe as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--material", type=Path, required=True, help="folder of the raw sets")
    parser.add_argument("--work", type=Path, required=True, help="folder for all that is made")
    parser.add_argument("--assets", type=Path, required=True, help="where the two files go")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (2)")
    for name, default, what in (
        ("--steps", 900, "steps of 8 pictures"),
        ("--balanced-steps", 1500, "steps of which rare words weigh much more"),
    ):
        parser.add_argument(name, type=int, default=default, help=f"{what} ({default})")
    args = parser.parse_args()
    raise SystemExit(run_recipe(lambda: make(args)))


def make(args: argparse.Namespace) -> None:
    """Make the two files from the material."""
    recipe = Recipe(args.material, args.work, args.threads)
    args.assets.mkdir(parents=True, exist_ok=True)
    recipe.make_nets()
    recipe.make_scenes()
    recipe.make_pseudo_labels()
    begin = {**CONTINUED, "init": EMBEDDED, "steps": args.steps}
    first = recipe.train("continued", SHARES, diffusion=None, **begin)
    start = str(first / "checkpoint.safetensors")
    begin |= {"balance": BALANCED, "init": start, "steps": args.balanced_steps}
    second = recipe.train("continued_balanced", SHARES, diffusion=None, **begin)
    export(recipe, second, SHARES, args.assets)


if __name__ == "__main__":
    main()
