"""The two pretrainings of the miniature as processes: nano CLIP and nano diffusion."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from dedos_deploy.presets import get_preset
from dedos_deploy.training.miniature.plan import MiniaturePlan, plan_from_json
from dedos_deploy.training.pretraining.clip import ClipSettings, pretrain_clip
from dedos_deploy.training.pretraining.scenes import SceneSet, render_scenes
from dedos_deploy.training.pretraining.small_diffusion import pretrain_diffusion

TRAIN_SEED, VAL_SEED, UNLABELLED_SEED = 1, 2, 3


def scenes(plan: MiniaturePlan) -> tuple[SceneSet, SceneSet]:
    """Return the scenes to learn from and to score on: the same in every process."""
    train = render_scenes(plan.train, size_hw=plan.size_hw, seed=TRAIN_SEED)
    return train, render_scenes(plan.val, size_hw=plan.size_hw, seed=VAL_SEED)


def unlabelled_scenes(plan: MiniaturePlan) -> SceneSet | None:
    """Return what the pretrainings learn from in place of the labelled scenes, None for these."""
    if plan.unlabelled is None:
        return None
    return render_scenes(plan.unlabelled, size_hw=plan.size_hw, seed=UNLABELLED_SEED)


def pretrain(plan: MiniaturePlan, learner: str, pictures: Path, output: Path) -> None:
    """Run one pretraining, or go on with it where it was interrupted.

    pictures: folder of those that the diffusion learns.
    """
    if learner == "diffusion":
        begun = any(output.glob("*_state.safetensors"))
        pretrain_diffusion((str(pictures),), plan.diffusion, output, resume=begun)
        return
    torch.set_num_threads(1)
    train, val = scenes(plan)
    settings = ClipSettings(steps=plan.clip_steps, minutes=plan.clip_minutes)
    unlabelled = unlabelled_scenes(plan)
    if unlabelled is not None:
        # Masks are labels: without them captions alone tell which patch is what.
        train, settings = unlabelled, replace(settings, regions=0.0)
    pretrain_clip(
        get_preset("miniature"),
        train,
        settings,
        output,
        held_out=val,
        resume=(output / "state.safetensors").exists(),
        on_step=lambda step, losses: print(step, losses, file=sys.stderr),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run one pretraining; the miniature starts this once for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("plan")
    parser.add_argument("learner", choices=("clip", "diffusion"))
    parser.add_argument("pictures", type=Path)
    parser.add_argument("output", type=Path)
    args = parser.parse_args(argv)
    pretrain(plan_from_json(args.plan), args.learner, args.pictures, args.output)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
