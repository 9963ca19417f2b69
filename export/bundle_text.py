"""The words of a bundle: text tower, tokenizer, and a base vocabulary with its embeddings."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from dedos_deploy.export.base_words import BASE_WORDS
from dedos_deploy.export.options import ExportOptions
from dedos_deploy.export.storage import Matrices
from dedos_deploy.export.text_tower import TextParity, check_text_tower, save_text_tower
from dedos_deploy.export.weights import TrainedModel
from dedos_deploy.files import sha256_of_file
from dedos_deploy.model.freeze import AnyModel
from dedos_deploy.model.heads import STUFF_WORDS, DenseClip
from dedos_deploy.runtime.slots import Encode
from dedos_deploy.spec import Precision
from dedos_deploy.text import TEMPLATES, TextEncoder, Tokenizer, TowerFiles, write_tokenizer_json
from dedos_deploy.vocabulary import canonical_word

TEXT_CHECKED = 64


@dataclass(frozen=True, eq=False)
class BundleText:
    """Files, and the base vocabulary with its embeddings."""

    tower: Path
    tokenizer: Path
    words: list[str]
    embeddings: NDArray[np.float32]
    parity: TextParity
    encode: Encode
    precision: Precision


def bundle_text(
    trained: TrainedModel, options: ExportOptions, folder: Path, *, matrices: Matrices
) -> BundleText:
    """Write the text tower and its tokenizer into `folder`, check them, and embed the base words.

    matrices: how the tower stores them. Raises ParityError when the stored tower embeds otherwise.
    """
    clip, name = trained.model.config.clip, options.templates_for(trained.model.config)
    length = clip.text.context_length
    tokenizer = write_tokenizer_json(folder / "tokenizer.json", length)
    tower = save_text_tower(
        trained.model.text_tower,
        folder / "text_encoder.onnx",
        context_length=length,
        matrices=matrices,
    )
    words = _base_words(trained, options)
    templates = TEMPLATES[name]
    prompts = [templates[0].replace("{}", word) for word in words[:TEXT_CHECKED]]
    tokens = Tokenizer(tokenizer, length).encode(prompts)
    parity = check_text_tower(trained.model.text_tower, tower, tokens)
    files = TowerFiles(
        model=tower,
        tokenizer=tokenizer,
        model_sha256=sha256_of_file(tower),
        tokenizer_sha256=sha256_of_file(tokenizer),
        context_length=length,
        text_width=clip.text_width,
    )
    encoder = TextEncoder(files, templates=templates, template_name=name, known={}, cache=None)
    rows = encoder.encode(words)
    precision: Precision = "fp16" if matrices == "half" else "int8"
    return BundleText(tower, tokenizer, words, rows, parity, encoder.encode, precision)


def set_null_words(model: AnyModel, encode: Encode) -> None:
    """Give a dense CLIP the null rows of STUFF_WORDS, as the tower of its bundle embeds them.

    encode: under the templates that the words of users will have. Other models have none.
    """
    if isinstance(model, DenseClip):
        model.word_logits.set_nulls(torch.from_numpy(encode(STUFF_WORDS)))
        limit = model.word_logits.limit
        model.config = replace(model.config, null_words=STUFF_WORDS, null_limit=limit)


def _base_words(trained: TrainedModel, options: ExportOptions) -> list[str]:
    if options.vocabulary is not None:
        return list(options.vocabulary.words)
    words = trained.words or list(BASE_WORDS)
    return list({canonical_word(word): word for word in words}.values())
