"""What is evaluated: a bundle, a checkpoint, or a net of fixed classes, all asked in one way."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.closing import Closing
from dedos_deploy.errors import BadInputError
from dedos_deploy.evaluation.confusion import Ids
from dedos_deploy.evaluation.looking import AS_DEPLOYED, Looking, tiling_identity
from dedos_deploy.evaluation.model_facts import model_facts
from dedos_deploy.evaluation.segmentation_net import SegmentationNet
from dedos_deploy.files import sha256_of_file
from dedos_deploy.runtime.tiling import Tiling
from dedos_deploy.vocabulary import Vocabulary, canonical_word

if TYPE_CHECKING:
    from dedos_deploy.bundle import Bundle
    from dedos_deploy.confidence_curves import ConfidenceCurves
    from dedos_deploy.runtime.explaining import Evidence
    from dedos_deploy.runtime.segmentation import Segmentation
    from dedos_deploy.spec import Background


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a predictor says of one image."""

    ids: Ids
    """uint8 or uint16 [H, W], class ids of the vocabulary, its length where there is no class."""
    confidence: NDArray[np.uint8] | None = None
    """uint8 [H, W], 255 times the score of the best class, or of a calibrated bundle what that is worth;
    None where scores are not known."""
    evidence: Evidence | None = None
    """The scores that it was labelled by; None where they are not known."""
    uncalibrated: NDArray[np.uint8] | None = None
    """uint8 [H, W], 255 times the score of the best class where `confidence` is something else."""


class Predictor(Protocol):
    """Labels images with the classes of one vocabulary.

    name: for people; identity: JSON values that decide its answers, by which a run is resumed;
    taught: words that its masks taught, None where that is not known.
    """

    @property
    def name(self) -> str: ...

    @property
    def identity(self) -> Mapping[str, Any]: ...

    @property
    def taught(self) -> frozenset[str] | None: ...

    def predict(self, image_bgr: NDArray[np.uint8]) -> Prediction:
        """Return what is seen in an image, uint8 [H, W, 3]."""
        ...

    def close(self) -> None: ...


class FrameSegmenter(Protocol):
    """What prediction needs of a Segmenter."""

    def segment(self, frame_bgr: NDArray[np.uint8]) -> Segmentation:
        """Return the label map of a frame, uint8 [H, W, 3], at the frame's own size."""
        ...

    def close(self) -> None: ...


class SegmenterPredictor(Closing):
    """A Segmenter that has `vocabulary` as its classes, whatever engine runs in it.

    taught: words that its masks taught; curves: by which its confidences, which are then scores, are
    to be read; closing: called after the segmenter is closed.
    """

    def __init__(
        self,
        segmenter: FrameSegmenter,
        vocabulary: Vocabulary,
        *,
        name: str,
        identity: Mapping[str, Any],
        taught: Sequence[str] = (),
        curves: ConfidenceCurves | None = None,
        closing: Callable[[], None] | None = None,
    ) -> None:
        self.segmenter, self.vocabulary = segmenter, vocabulary
        self.name, self.identity = name, identity
        self.taught = frozenset(map(canonical_word, taught)) or None
        self._curves = curves
        self._closing = closing

    def predict(self, image_bgr: NDArray[np.uint8]) -> Prediction:
        from dedos_deploy.runtime.results import read_curves

        result = self.segmenter.segment(image_bgr)
        ids, scores = own_ids(result, self.vocabulary), result.confidence
        if self._curves is None:
            return Prediction(ids, scores, result.evidence)
        confidence = scores.copy()
        rows = self._curves.rows(result.classes, self.vocabulary.tuned_names)
        read_curves(result.label_map, confidence, rows)
        return Prediction(ids, confidence, result.evidence, scores)

    def close(self) -> None:
        self.segmenter.close()
        if self._closing is not None:
            self._closing()


def tuned_identity(vocabulary: Vocabulary) -> dict[str, str]:
    """Return what tells tuned words from those of the text tower in the identity of a predictor."""
    return {} if vocabulary.tuned is None else {"tuned_words": vocabulary.tuned.sha256}


def own_ids(result: Segmentation, vocabulary: Vocabulary) -> Ids:
    """Return the label map with ids of `vocabulary`, and its length where there is none of them.

    A session's ids count on when its class list changes, so they need not be the vocabulary's.
    """
    nothing = len(vocabulary)
    dtype = np.uint8 if nothing < 255 else np.uint16
    ids = np.full(int(np.iinfo(result.label_map.dtype).max) + 1, nothing, dtype=dtype)
    position = {name: index for index, name in enumerate(vocabulary.names)}
    for session_id, name in enumerate(result.classes):
        ids[session_id] = position.get(name, nothing)
    found: Ids = ids[result.label_map]
    return found


def open_bundle_predictor(
    bundle: str | os.PathLike[str] | Bundle,
    vocabulary: Vocabulary,
    *,
    engine: str = "cpu",
    background: Background = "none",
    threshold: float | None = None,
    template: str | None = None,
    threads: int | None = None,
    looking: Looking = AS_DEPLOYED,
    name: str | None = None,
) -> SegmenterPredictor:
    """Return a bundle as a predictor.

    engine, background, threshold, threads: as `Segmenter.load` takes them; template: prompt
    templates other than the bundle's own, one of TEMPLATES; looking: how it looks at pictures; name: for
    people, None for the bundle's.

    Raises BadInputError and what `Segmenter.load` raises.
    """
    from dedos_deploy.bundle import Bundle
    from dedos_deploy.runtime.loading import curves_of, tiling_of
    from dedos_deploy.runtime.segmenter import Segmenter

    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    try:
        tiling = looking.tiling(tiling_of(opened, None))
        curves = curves_of(opened, template, tiling)
        segmenter = Segmenter.load(
            opened,
            classes=vocabulary,
            engine=engine,
            background=background,
            threshold=threshold,
            threads=threads,
            template=template,
            tiles=tiling,
            explain=True,
            # Read by the curves here, so that what they change can be told.
            calibrated=False,
        )
    except BaseException:
        if opened is not bundle:
            opened.close()
        raise
    manifest = opened.manifest
    spec = manifest.spec
    lowest = manifest.default_threshold if threshold is None else threshold
    identity = {
        "bundle": manifest.files["model.onnx"],
        "text": manifest.files["text_encoder.onnx"],
        "engine": engine,
        "precision": manifest.precision,
        "template": template or manifest.template_name,
        "background": background,
        "threshold": lowest if background != "none" else None,
        "thresholds": manifest.thresholds if background != "none" and threshold is None else {},
        "model": model_facts(manifest.model_config, manifest.sources, (spec.height, spec.width)),
        **tiling_identity(tiling),
        **tuned_identity(vocabulary),
        **({} if curves is None else _curves_identity(opened, curves, tiling)),
    }
    closing = opened.close if opened is not bundle else None
    return SegmenterPredictor(
        segmenter,
        vocabulary,
        name=name or opened.name,
        identity=identity,
        taught=opened.base_words,
        curves=curves,
        closing=closing,
    )


def _curves_identity(bundle: Bundle, curves: ConfidenceCurves, tiling: Tiling) -> dict[str, str]:
    """Return which curves confidences are read off, and how frames were looked at when they were learned,
    where that is not `tiling`."""
    from dedos_deploy.runtime.loading import learned_otherwise

    other = learned_otherwise(bundle, curves, tiling)
    learned = {} if other is None else {"curves_learned_through": other}
    return {"confidence_curves": curves.sha256, **learned}


def open_checkpoint_predictor(
    path: str | os.PathLike[str],
    vocabulary: Vocabulary,
    *,
    size_hw: tuple[int, int] | None = None,
    background: Background = "none",
    threshold: float = 0.5,
    template: str | None = None,
    device: str = "cpu",
    threads: int | None = None,
    looking: Looking = AS_DEPLOYED,
    name: str | None = None,
) -> SegmenterPredictor:
    """Return a checkpoint as a predictor: the torch model between the runtime's own two ends.

    size_hw: network size, None for the one it was trained at; template: prompt templates, None for
    those it was trained with; device: where torch runs; looking: how it looks at pictures; name: for people,
    None for the file's.

    Raises BadInputError for a checkpoint that cannot be used, MissingExtraError without torch.
    """
    from dedos_deploy.evaluation.torch_engine import open_torch_segmenter

    segmenter, identity, taught = open_torch_segmenter(
        Path(path),
        vocabulary,
        size_hw=size_hw,
        background=background,
        threshold=threshold,
        template=template,
        device=device,
        threads=threads,
        tiling=looking.tiling(Tiling()),
    )
    identity |= tuned_identity(vocabulary)
    return SegmenterPredictor(
        segmenter, vocabulary, name=name or Path(path).name, identity=identity, taught=taught
    )


class NetPredictor:
    """A net of fixed classes, such as DeepLab's for Cityscapes, as a bar to compare with.

    path: ONNX, `image` float32 [1, 3, h, w] RGB 0..255 to `logits` [1, C, h', w']; words: what its
    C channels are called; joined: word of a class -> the net's words that mean it, for classes
    that the net calls otherwise or splits; side: longest side that it looks at, in pixels.

    Every pixel gets the best channel at the image's size; channels that mean no asked class give
    no class.

    Raises BadInputError when the file is no such net, or a class has no word of the net.
    """

    taught: frozenset[str] | None = None

    def __init__(
        self,
        path: str | os.PathLike[str],
        words: Sequence[str],
        vocabulary: Vocabulary,
        *,
        joined: Mapping[str, Sequence[str]] | None = None,
        side: int = 641,
        threads: int | None = None,
        name: str | None = None,
    ) -> None:
        path = Path(path)
        self._net = SegmentationNet(path, len(words), threads=threads)
        self._table = channel_classes(words, vocabulary, joined or {})
        self._side = side
        self.name = name or path.stem
        self.identity: Mapping[str, Any] = {
            "net": sha256_of_file(path),
            "side": side,
            "channels": self._table.tolist(),
        }

    def predict(self, image_bgr: NDArray[np.uint8]) -> Prediction:
        # No confidence: not every net ends in a softmax over its channels.
        return Prediction(self._table[self._net.logits(image_bgr, self._side).argmax(axis=2)])

    def close(self) -> None:
        del self._net


def channel_classes(
    words: Sequence[str], vocabulary: Vocabulary, joined: Mapping[str, Sequence[str]]
) -> Ids:
    """Return the class id of every channel of a net, the vocabulary's length for no class.

    Raises BadInputError for a class that no channel means, and a channel that means two.
    """
    known = {canonical_word(word) for word in words}
    table = np.full(len(words), len(vocabulary), np.uint8 if len(vocabulary) < 255 else np.uint16)
    for class_id, entry in enumerate(vocabulary.entries):
        wanted = {canonical_word(word) for word in joined.get(entry.name, entry.words)}
        if entry.name not in joined and wanted & known:
            wanted &= known  # one of several synonyms is enough
        if not wanted <= known or not wanted:
            missing = ", ".join(sorted(wanted - known)) or entry.name
            raise BadInputError(
                f"class {entry.name!r} has no channel: the net knows {', '.join(words)}, not "
                f"{missing}; say which of them mean it"
            )
        for channel, word in enumerate(words):
            if canonical_word(word) in wanted:
                if table[channel] != len(vocabulary):
                    other = vocabulary.names[int(table[channel])]
                    raise BadInputError(
                        f"the net's {word!r} is said to mean both {other!r} and {entry.name!r}; "
                        "leave one out"
                    )
                table[channel] = class_id
    return table
