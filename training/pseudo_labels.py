"""Labels for unlabelled pictures and videos, from segmentation nets that may be used for it.

Two small nets with Apache-2.0 weights, DeepLab on Cityscapes and on PASCAL VOC, look at every
n-th frame, at two sizes and mirrored; where their mean answer is sure enough it becomes the label,
elsewhere the label is 255 (unknown). The result is an ordinary label folder (images/train,
labels/train, classes.txt) in plain words, so that training reads it like any other.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.errors import BadInputError, SourceError
from dedos_deploy.text.vocabulary_file import write_atomically
from dedos_deploy.training.folders import open_folder

_LOG = logging.getLogger(__name__)

UNKNOWN = 255

CITYSCAPES_WORDS: tuple[str | None, ...] = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign",
    "tree", "grass", "sky", "person", "person", "car", "truck", "bus", "train", "motorcycle",
    "bicycle",
)  # fmt: skip
"""Plain words for the 19 training ids: vegetation is mostly trees, terrain mostly grass."""

VOC_WORDS: tuple[str | None, ...] = (
    None, "airplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "table", "dog", "horse", "motorcycle", "person", "plant", "sheep", "sofa", "train", "monitor",
)  # fmt: skip
"""Plain words for the 21 ids; background is no word, so it stays unknown."""

_QUALITY = (1, 90)  # cv2.IMWRITE_JPEG_QUALITY and its value

Probabilities = NDArray[np.float32]


class SegmentationTeacher(Protocol):
    """A net that gives every pixel of a picture class probabilities."""

    @property
    def words(self) -> tuple[str | None, ...]:
        """The word of each output channel; None for channels that never become a label."""
        ...

    def probabilities(self, image_bgr: NDArray[np.uint8]) -> Probabilities:
        """Return float32 [H, W, channels] that sum to 1 for uint8 [H, W, 3]."""
        ...


@dataclass(frozen=True)
class LabelRules:
    """What becomes a label.

    confidence: least probability of the winning word; words: the only words to keep (empty: all);
    side_px: longest side of the pictures that are written; least_known: pictures with a smaller
    share of known pixels are left out.
    """

    confidence: float = 0.7
    words: tuple[str, ...] = ()
    side_px: int = 480
    least_known: float = 0.02


class OnnxTeacher:
    """A DeepLab net in ONNX: `image` float32 [N, 3, H, W] RGB 0..255 to `logits`.

    sizes: longest sides, in pixels, that the picture is looked at; the answers are averaged.

    Raises BadInputError when the file is no such net.
    """

    def __init__(
        self,
        path: Path,
        words: tuple[str | None, ...],
        *,
        sizes: tuple[int, ...] = (641, 897),
        threads: int = 0,
    ) -> None:
        import onnxruntime
        from onnxruntime.capi import onnxruntime_pybind11_state as state

        unreadable = (state.Fail, state.InvalidProtobuf, state.InvalidGraph, state.NoSuchFile)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
            outputs = {output.name: output.shape for output in self._session.get_outputs()}
            channels = outputs["logits"][1]
        except (KeyError, *unreadable) as error:
            raise BadInputError(
                f"{path} is no segmentation net with an output `logits`; convert one with "
                f"tflite_to_onnx.py"
            ) from error
        if channels != len(words):
            raise BadInputError(f"{path} has {channels} classes, {len(words)} words were given")
        self._words = words
        self._sizes = sizes

    @property
    def words(self) -> tuple[str | None, ...]:
        return self._words

    def probabilities(self, image_bgr: NDArray[np.uint8]) -> Probabilities:
        """Return the mean answer over sizes and mirror images, float32 [H, W, channels]."""
        import cv2

        height, width = image_bgr.shape[:2]
        total = np.zeros((height, width, len(self._words)), np.float32)
        for side in self._sizes:
            scale = side / max(height, width)
            # these nets keep the pixel grid aligned at sizes 16 k + 1
            size_wh = (_aligned(width * scale), _aligned(height * scale))
            resized = cv2.resize(image_bgr, size_wh, interpolation=cv2.INTER_LINEAR)
            for flip in (False, True):
                seen = resized[:, ::-1] if flip else resized
                logits = self._run(np.ascontiguousarray(seen))
                logits = logits[:, ::-1] if flip else logits
                total += _softmax(_resize_channels(logits, (width, height)))
        total /= 2 * len(self._sizes)
        return total

    def _run(self, image_bgr: NDArray[np.uint8]) -> NDArray[np.float32]:
        image = image_bgr[None, :, :, ::-1].transpose(0, 3, 1, 2).astype(np.float32)
        (logits,) = self._session.run(["logits"], {"image": image})
        result: NDArray[np.float32] = logits[0].transpose(1, 2, 0)
        return result


def _aligned(edge: float) -> int:
    return max(1, round((edge - 1) / 16)) * 16 + 1


def _resize_channels(logits: NDArray[np.float32], size_wh: tuple[int, int]) -> NDArray[np.float32]:
    import cv2

    source = np.ascontiguousarray(logits)
    resized = cv2.resize(source, size_wh, interpolation=cv2.INTER_LINEAR)
    return np.asarray(resized, np.float32).reshape(size_wh[1], size_wh[0], -1)


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    raised = np.exp(logits - logits.max(axis=2, keepdims=True))
    result: NDArray[np.float32] = raised / raised.sum(axis=2, keepdims=True)
    return result


def label_image(
    teacher: SegmentationTeacher, image_bgr: NDArray[np.uint8], rules: LabelRules
) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """Return labels uint8 [H, W] (index into the words, 255 unknown) and the words.

    Channels of one word are added before the winner is chosen.
    """
    names = tuple(dict.fromkeys(word for word in teacher.words if word is not None))
    kept = tuple(name for name in names if not rules.words or name in rules.words)
    by_channel = teacher.probabilities(image_bgr)
    merged = np.zeros((*by_channel.shape[:2], len(names)), np.float32)
    for channel, word in enumerate(teacher.words):
        if word is not None:
            merged[..., names.index(word)] += by_channel[..., channel]
    winner, sure = merged.argmax(axis=2), merged.max(axis=2) >= rules.confidence
    table = np.array([kept.index(c) if c in kept else UNKNOWN for c in names], np.uint8)
    return np.where(sure, table[winner], UNKNOWN).astype(np.uint8), kept


def write_pseudo_labels(
    teacher: SegmentationTeacher,
    frames: Iterable[tuple[str, NDArray[np.uint8]]],
    folder: Path,
    rules: LabelRules,
) -> int:
    """Label frames (name, picture) and write them as a label folder; returns how many were kept.

    Files of the same name are replaced; classes.txt must agree if it is there already.

    Raises BadInputError when the folder holds other classes, or no frame was given.
    """
    import cv2

    count = seen = 0
    names: tuple[str, ...] = ()
    for seen, (name, frame) in enumerate(frames, start=1):
        scale = min(1.0, rules.side_px / max(frame.shape[:2]))
        resized = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        image = np.asarray(resized, np.uint8)
        labels, names = label_image(teacher, image, rules)
        if seen == 1:
            _write_classes(folder, names)
        if (labels != UNKNOWN).mean() < rules.least_known:
            continue
        _write_image(folder / "images" / "train" / f"{name}.jpg", image, _QUALITY)
        _write_image(folder / "labels" / "train" / f"{name}.png", labels, [])
        count += 1
        if count % 20 == 0:
            _LOG.info("%s: %d pictures labelled", folder.name, count)
    if not seen:
        raise BadInputError(f"there is no picture to label for {folder}; give a video or a folder")
    return count


def complete_folder(
    teacher: SegmentationTeacher, source: Path, folder: Path, rules: LabelRules, *, split: str
) -> int:
    """Copy one split of a label folder and let the teacher name what it calls background.

    What the source labels with a class stays; on background pixels the teacher may say any word
    but the source's own, which are known to be elsewhere. Returns the number of pictures.

    Raises BadInputError when the source is no label folder.
    """
    import cv2

    given = open_folder(os.fspath(source), split=split)
    names = tuple(dict.fromkeys([*given.annotated, *(w for w in teacher.words if w is not None)]))
    _write_classes(folder, names)
    table = np.full(256, UNKNOWN, np.uint8)
    for value, word in enumerate(given.words):
        table[value] = names.index(word) if word is not None else UNKNOWN
    background = [value for value, word in enumerate(given.words) if word is None]
    for image_path, label_path in given.items:
        image = _read_image(image_path, cv2.IMREAD_COLOR)
        known = _read_image(label_path, cv2.IMREAD_UNCHANGED)
        guessed, words = label_image(teacher, image, rules)
        lookup = np.full(256, UNKNOWN, np.uint8)
        for value, word in enumerate(words):
            lookup[value] = UNKNOWN if word in given.annotated else names.index(word)
        labels = np.where(np.isin(known, background), lookup[guessed], table[known])
        _write_image(folder / "images" / "train" / f"{image_path.stem}.jpg", image, _QUALITY)
        _write_image(folder / "labels" / "train" / f"{image_path.stem}.png", labels, [])
    return len(given.items)


def _read_image(path: Path, flag: int) -> NDArray[np.uint8]:
    import cv2

    image = cv2.imread(os.fspath(path), flag)
    if image is None:
        raise SourceError(f"{path} cannot be read as a picture")
    return np.asarray(image, np.uint8)


def _write_classes(folder: Path, names: Sequence[str]) -> None:
    path, text = folder / "classes.txt", "".join(f"{name}\n" for name in names)
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise BadInputError(f"{path} lists other classes; write to an empty folder")
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text.encode())


def _write_image(path: Path, image: NDArray[np.uint8], options: Sequence[int]) -> None:
    import cv2

    path.parent.mkdir(parents=True, exist_ok=True)
    done, data = cv2.imencode(path.suffix, image, options)
    if not done:
        raise BadInputError(f"a picture of shape {image.shape} cannot be encoded as {path.name}")
    write_atomically(path, data.tobytes())


def read_frames(path: Path, *, step: int) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Yield (name, uint8 [H, W, 3] BGR) of every `step`-th frame of a video or image folder.

    Raises BadInputError for a bad step, SourceError when nothing can be read.
    """
    if step < 1:
        raise BadInputError(f"the step between frames must be at least 1, received {step}")
    if path.is_dir():
        return _folder_frames(path, step)
    return _video_frames(path, step)


def _folder_frames(path: Path, step: int) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    import cv2

    files = sorted(p for p in path.iterdir() if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if not files:
        raise SourceError(f"{path} holds no .jpg or .png picture")
    for file in files[::step]:
        yield f"{path.name}_{file.stem}", _read_image(file, cv2.IMREAD_COLOR)


def _video_frames(path: Path, step: int) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    import cv2

    capture = cv2.VideoCapture(os.fspath(path))
    try:
        index = 0
        while capture.grab():
            if index % step == 0:
                done, image = capture.retrieve()
                if not done:
                    raise SourceError(f"frame {index} of {path} cannot be decoded")
                yield f"{path.stem}_{index:05d}", np.asarray(image, np.uint8)
            index += 1
        if not index:
            raise SourceError(f"{path} cannot be read as a video")
    finally:
        capture.release()
