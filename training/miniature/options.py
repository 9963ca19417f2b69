"""The options of `dedos-train miniature` that fill MiniaturePlan, without torch."""

from __future__ import annotations

from dedos_deploy.options import Option

MINIATURE_OPTIONS = (
    Option(
        "minutes",
        "time of everything, divided among the parts: chooses --steps by what a step costs here "
        "(given steps: 60 to 90 minutes on two cores)",
        float,
        metavar="M",
    ),
    Option("seeds", "runs of every component ({default})", int, default=3),
    Option("steps", "steps of every run ({default})", int, default=300),
    Option("train", "scenes to learn from ({default})", int, metavar="N", default=3000),
    Option(
        "unlabelled",
        "further scenes that CLIP and the diffusion learn from, instead of the labelled ones: captions "
        "alone teach CLIP then (none)",
        int,
        metavar="N",
    ),
    Option("val", "scenes to score on ({default})", int, metavar="N", default=240),
    Option("clip_steps", "steps of the nano CLIP ({default})", int, default=1200),
    Option(
        "diffusion_minutes",
        "time of the nano diffusion, on one core ({default})",
        float,
        default=12.0,
    ),
    Option(
        "components",
        "rows to run ({default}): components of dedos-train, controls and other uses among them; V@30 "
        "is V with --gamma 30",
        metavar="ROW",
        several=True,
        default=("I", "II", "III", "IV", "V"),
    ),
    Option("lr", "learning rate of the head", float),
    Option("backbone_lr", "learning rate of the CLIP trunk", float),
    Option("gamma", "weight of L_consist ({default})", float, default=1.0),
    Option("jobs", "runs at a time, one thread each ({default})", int, default=2),
)
