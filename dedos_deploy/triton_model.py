"""A bundle as a model of Triton Inference Server: its files, tensors and parameters, defined once.

Letters: H, W picture size, N classes of the request.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

BUNDLE = "bundle"
"""Folder of the bundle within a version of the model."""

CLASSES_FILE = "classes.txt"
WORDS_FILE = "classes.words"
"""Words of requests that bring none, as text or with tuned embeddings; beside the bundle, one of them."""

ENGINE = "engine"
BACKGROUND = "background"
"""Names of the parameters in `config.pbtxt`."""

Encoding = Literal["raw", "png"]
"""How label map and confidence are sent."""

ENCODINGS: tuple[Encoding, ...] = get_args(Encoding)
PARAMETERS = ("encoding", "confidence", "order")
"""Names of the parameters of a request: how maps are sent; whether the confidence is; `bgr` or `rgb`."""


@dataclass(frozen=True)
class TritonTensor:
    """One tensor of the model: -1 is any number."""

    name: str
    kind: Literal["UINT8", "UINT16", "STRING"]
    dims: tuple[int, ...]


IMAGE = TritonTensor("image", "UINT8", (-1, -1, 3))
"""[H, W, 3]."""
PICTURE = TritonTensor("picture", "STRING", (1,))
"""A JPEG or PNG file, instead of IMAGE."""
CLASSES = TritonTensor("classes", "STRING", (1,))
"""A list of words as `parse_vocabulary` takes it."""
INPUTS = (IMAGE, PICTURE, CLASSES)
"""All of them optional."""

LABEL_MAP = TritonTensor("label_map", "UINT8", (-1, -1))
LABEL_MAP_UINT16 = TritonTensor("label_map_uint16", "UINT16", (-1, -1))
"""[H, W] instead of LABEL_MAP where there are more than 254 classes."""
LABEL_MAP_PNG = TritonTensor("label_map_png", "STRING", (1,))
CONFIDENCE = TritonTensor("confidence", "UINT8", (-1, -1))
CONFIDENCE_PNG = TritonTensor("confidence_png", "STRING", (1,))
CLASS_NAMES = TritonTensor("class_names", "STRING", (-1,))
"""[N]."""
CLASS_IDS = TritonTensor("class_ids", "UINT16", (-1,))
"""[N], of CLASS_NAMES."""
NONE_ID = TritonTensor("none_id", "UINT16", (1,))
"""Id of unlabelled pixels."""
OUTPUTS = (
    LABEL_MAP,
    LABEL_MAP_UINT16,
    LABEL_MAP_PNG,
    CONFIDENCE,
    CONFIDENCE_PNG,
    CLASS_NAMES,
    CLASS_IDS,
    NONE_ID,
)
"""Of which a response has those that its parameters ask for."""
