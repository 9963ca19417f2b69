"""The options of `dedos-train diffusion`, `text` and `trunk` that fill their settings, without torch."""

from __future__ import annotations

from dedos_deploy.options import Option, size_hw

DIFFUSION_OPTIONS = (
    Option(
        "size_hw",
        "size of the pictures ({default}); multiples of 32",
        size_hw,
        flag="--size",
        metavar="HxW",
        default=(128, 160),
    ),
    Option(
        "minutes", "wall clock of reading and training together ({default})", float, default=12.0
    ),
    Option("vae_steps", "steps of the autoencoder, at most", int),
    Option("unet_steps", "steps of the noise predictor, at most", int),
    Option(
        "prediction",
        "what is predicted, as in Stable Diffusion 2.1 (v_prediction) or 1.5",
        choices=("v_prediction", "epsilon"),
    ),
    Option("text", "Dedos checkpoint whose text tower embeds the captions", metavar="CHECKPOINT"),
    Option("seed", "one seed for weights, order and noise", int),
    Option("threads", "threads of the training, at most one per core", int),
    Option("device", "where to train", choices=("auto", "cpu", "cuda")),
    Option("amp", "bfloat16 where it is safe", switch="both"),
    Option("save_minutes", "time between saved states ({default})", float, default=2.0),
)
"""Of NanoSettings, and of its UNetSettings `prediction`."""

TEXT_OPTIONS = (
    Option("steps", "optimizer steps ({default})", int, default=1500),
    Option("minutes", "wall clock of the training, at most", float),
    Option("batch", "words in a step ({default})", int, default=384),
    Option("learning_rate", "peak rate ({default})", float, flag="--lr", default=2e-3),
    Option("seed", "one seed for weights and order", int),
)
"""Of DistilSettings."""

TRUNK_OPTIONS = (
    Option("minutes", "wall clock of the training ({default})", float, default=30.0),
    Option("steps", "optimizer steps, at most", int),
    Option("batch", "crops in a step ({default})", int, default=8),
    Option("sizes", "network sizes, one drawn per step", size_hw, metavar="HxW", several=True),
    Option(
        "darken",
        "take up to this many stops (halvings) of light from crops, fewer ones more often, while the teachers "
        "see pictures as they are (0: none)",
        float,
        metavar="STOPS",
    ),
    Option("lr", "peak learning rate ({default})", float, default=1e-3),
    Option("seed", "one seed for weights, crops and order", int),
    Option("amp", "bfloat16 where it is safe", switch="both"),
)
"""Of TrunkSettings."""
