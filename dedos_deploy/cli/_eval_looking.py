"""What dedos-eval's --tiles and --tta say about how pictures are looked at."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dedos_deploy.cli._options import add_tiles
from dedos_deploy.errors import BadInputError

if TYPE_CHECKING:
    from dedos_deploy.evaluation.looking import Looking
    from dedos_deploy.evaluation.subjects import Subject

USUAL = "1,1.25,1.5,flip"
"""Of published tables' scales, 0.5 to 1.75, those that a graph of one input size can show, in 18 runs of it."""


def add_looking(group: argparse._ActionsContainer) -> None:
    """Add --tiles and --tta."""
    add_tiles(group)
    group.add_argument(
        "--tta",
        nargs="?",
        const=USUAL,
        metavar="SCALE,...,flip",
        help="test-time augmentation, as published tables have it: average the scores of pictures shown "
        f"larger by each of the scales and, with flip, mirrored, too (alone: {USUAL})",
    )


def looking_of(args: argparse.Namespace, subjects: Sequence[Subject]) -> Looking:
    """Return how pictures are to be looked at; raises BadInputError for what would change nothing."""
    from dedos_deploy.evaluation.looking import AS_DEPLOYED, Looking, parse_augmentation
    from dedos_deploy.tiles import parse_tiles

    given = [name for name in ("tiles", "tta") if getattr(args, name) is not None]
    if not given:
        return AS_DEPLOYED
    if all(one.kind == "net" for one in subjects):
        raise BadInputError(
            f"--{given[0]} says how bundles and checkpoints look at pictures, but none is measured here; "
            "leave it out, or give --bundle or --checkpoint"
        )
    tiles = None if args.tiles is None else parse_tiles(args.tiles)
    if args.tta is None:
        return Looking(tiles)
    scales, flips = parse_augmentation(args.tta)
    return Looking(tiles, scales, flips)
