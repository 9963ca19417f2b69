"""Requests with a picture and words in, label maps out: what a Triton model does, without Triton."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.closing import Closing
from dedos_deploy.errors import BadInputError, SinkError, nearest, shown
from dedos_deploy.runtime.pixels import Order
from dedos_deploy.runtime.segmentation import Segmentation
from dedos_deploy.runtime.segmenter import Segmenter
from dedos_deploy.runtime.serving.decoder import MOST_SENT_PIXELS, Limits, PictureDecoder
from dedos_deploy.runtime.serving.drawings import WORDS_S
from dedos_deploy.runtime.serving.recent_views import RecentViews
from dedos_deploy.runtime.sinks.files import encode_picture
from dedos_deploy.triton_model import (
    CLASS_IDS,
    CLASS_NAMES,
    CLASSES,
    CONFIDENCE,
    CONFIDENCE_PNG,
    ENCODINGS,
    IMAGE,
    LABEL_MAP,
    LABEL_MAP_PNG,
    LABEL_MAP_UINT16,
    NONE_ID,
    OUTPUTS,
    PARAMETERS,
    PICTURE,
    Encoding,
    TritonTensor,
)

Tensors = dict[TritonTensor, NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Asked:
    """One request."""

    image: NDArray[np.uint8] | None = None
    """[H, W, 3]; or else `picture`."""

    picture: bytes | None = None
    """A JPEG or PNG file."""

    classes: bytes | None = None
    """A list of words in UTF-8, None for the model's own."""

    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Those of PARAMETERS, and others that are not for the model."""

    outputs: frozenset[str] = frozenset()
    """Names of the tensors that it wants, empty for all that there are."""


@dataclass(frozen=True)
class _Manner:
    """The parameters of a request."""

    encoding: Encoding = "raw"
    confidence: bool = False
    order: Order | None = None

    def __post_init__(self) -> None:
        if self.encoding not in ENCODINGS:
            raise BadInputError(
                f"the parameter 'encoding' is {shown(self.encoding)}; it is one of "
                f"{', '.join(ENCODINGS)}"
            )
        if not isinstance(self.confidence, bool):
            raise BadInputError(
                f"the parameter 'confidence' is {shown(self.confidence)}; it is true or false, no text "
                "or number"
            )


class Answers(Closing):
    """Answers requests by one segmenter, each with its own words; for one thread."""

    def __init__(self, segmenter: Segmenter, *, words_s: float = WORDS_S) -> None:
        """segmenter: stays its owner's; its words are for requests that bring none. words_s: seconds
        that new words of one request may take to be encoded."""
        self._segmenter = segmenter
        self._views = RecentViews(segmenter, words_s=words_s)
        self._decoder = PictureDecoder(most_pixels=MOST_SENT_PIXELS, limits=Limits(workers=1))

    def answer(self, asked: Asked) -> Tensors:
        """Return the tensors of the response.

        Raises BadInputError for a request that cannot be answered, UnfinishedError for one that can be
        when it is sent again, EngineError.
        """
        manner = _manner(asked.parameters)
        frame = self._frame(asked, manner)
        words = None if asked.classes is None else _text(asked.classes)
        view = self._segmenter if words is None else self._views.view(words)
        order: Order = "bgr" if manner.order is None else manner.order
        found = _tensors(view.segment(frame, order=order), manner)
        _check_outputs(asked.outputs, [tensor.name for tensor in found])
        return found

    def close(self) -> None:
        """End the process that decodes pictures."""
        self._decoder.close()

    def _frame(self, asked: Asked, manner: _Manner) -> NDArray[np.uint8]:
        if asked.image is not None and asked.picture is None:
            height, width = asked.image.shape[:2]
            if height * width > MOST_SENT_PIXELS:
                raise BadInputError(
                    f"the image has {height}x{width} pixels, at most {MOST_SENT_PIXELS} are taken; make "
                    "it smaller"
                )
            return asked.image
        if asked.picture is None or asked.image is not None:
            has = "neither" if asked.picture is None else "both"
            raise BadInputError(
                f"a request has one of the inputs {IMAGE.name!r}, uint8 [H, W, 3], and "
                f"{PICTURE.name!r}, a JPEG or PNG file, and this one has {has}; send one of them"
            )
        if manner.order is not None:
            raise BadInputError(
                f"the parameter 'order' is of the input {IMAGE.name!r}, and this request has "
                f"{PICTURE.name!r}, which needs none; leave it out"
            )
        return self._decoder.decode(asked.picture)


def _manner(parameters: Mapping[str, Any]) -> _Manner:
    for name in parameters.keys() - set(PARAMETERS):
        # Triton itself and those before it add some, such as headers of HTTP.
        if hint := nearest(name, PARAMETERS):
            raise BadInputError(
                f"the parameter {shown(name)} is unknown{hint}; a request may have "
                f"{', '.join(PARAMETERS)}"
            )
    given = {name: parameters[name] for name in PARAMETERS if name in parameters}
    return _Manner(**given)


def _check_outputs(wanted: frozenset[str], given: Sequence[str]) -> None:
    """Raise BadInputError for an output that is wanted by name and not in the response.

    Triton names all outputs where a request names none.
    """
    if wanted == {tensor.name for tensor in OUTPUTS}:
        return
    if missing := sorted(wanted - set(given)):
        raise BadInputError(
            f"the output {missing[0]!r} is not in this response, which has {', '.join(given)}; ask for "
            "one of these, or change the parameters 'encoding' and 'confidence'"
        )


def _text(classes: bytes) -> str:
    try:
        return classes.decode()
    except UnicodeDecodeError as error:
        raise BadInputError(
            f"the input {CLASSES.name!r} is not UTF-8 text at byte {error.start}; send words as UTF-8"
        ) from None


def _tensors(result: Segmentation, manner: _Manner) -> Tensors:
    ids = result.class_ids
    found: Tensors = {
        CLASS_NAMES: np.array([result.classes[one].encode() for one in ids], np.object_),
        CLASS_IDS: np.array(ids, np.uint16),
        NONE_ID: np.array([result.none_id], np.uint16),
    }
    if manner.encoding == "png":
        found[LABEL_MAP_PNG] = _png(result.label_map)
        return found | ({CONFIDENCE_PNG: _png(result.confidence)} if manner.confidence else {})
    wide = result.label_map.dtype == np.uint16
    found[LABEL_MAP_UINT16 if wide else LABEL_MAP] = result.label_map
    return found | ({CONFIDENCE: result.confidence} if manner.confidence else {})


def _png(picture: NDArray[Any]) -> NDArray[np.object_]:
    try:
        return np.array([encode_picture(".png", picture)], np.object_)
    except SinkError as error:  # a side of more than a million pixels
        height, width = picture.shape
        raise BadInputError(
            f"labels of {height}x{width} pixels are no PNG, whose sides end earlier; leave the parameter "
            "'encoding' out or send a smaller picture"
        ) from error
