"""Sinks that write pictures, label maps and JSON lines."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.errors import SinkError
from dedos_deploy.runtime.frame import Frame
from dedos_deploy.runtime.segmentation import Segmentation
from dedos_deploy.runtime.sinks.contract import Sink, SinkOptions
from dedos_deploy.runtime.sinks.outputs import (
    GrowingFile,
    PictureFolder,
    reserve_file,
    write_whole,
    writing,
)

CLASSES_FILE = "classes.json"
WORDS_FILE = "classes.txt"
"""Of label folders that are trained on: the name of every id, a line each."""


class LastPicture(Sink):
    """The overlay of the last frame, drawn when the sink is closed."""

    def __init__(self, path: Path, options: SinkOptions) -> None:
        self.uri = str(path)
        self._path = path
        self._options = options
        self._last: tuple[Frame, Segmentation] | None = None
        self._is_written = False
        reserve_file(path, overwrite=options.overwrite, protected=options.protected).discard()

    @property
    def written(self) -> str | None:
        return self.uri if self._is_written else None

    def write(self, frame: Frame, result: Segmentation) -> None:
        self._last = frame, result

    def close(self) -> None:
        last, self._last = self._last, None
        if last is not None:
            overlay = self._options.painter.paint(last[0].frame_bgr, last[1])
            content = encode_picture(self._path.suffix, overlay)
            write_whole(self._path, content, overwrite=self._options.overwrite, sync=True)
            self._is_written = True


class OverlayFolder(Sink):
    """One overlay JPEG per frame, named as the frame."""

    def __init__(self, folder: Path, options: SinkOptions) -> None:
        self.uri = f"overlays:{folder}"
        self._options = options
        self._pictures = PictureFolder(
            folder, ".jpg", overwrite=options.overwrite, protected=options.protected
        )

    @property
    def written(self) -> str | None:
        left = self._pictures.left()
        return f"{self._pictures.path} ({left} pictures)" if self._pictures.count else None

    def write(self, frame: Frame, result: Segmentation) -> None:
        overlay = self._options.painter.paint(frame.frame_bgr, result)
        self._pictures.write(frame.name, encode_picture(".jpg", overlay))

    def close(self) -> None:
        self._pictures.close()


class MaskFolder(Sink):
    """One label map PNG per frame, and the classes of the ids in the `classes.json` beside it, and in
    `classes.txt`, with which it is a folder of labels to train on.

    A session that was asked for very many names gives ids again (`Segmenter.set_classes`). From the
    first mask in which an id means something else, masks go to the folder `ids-2` within the folder,
    then to `ids-3`, …, each with a `classes.json` of its own: one always explains all masks beside it.
    """

    def __init__(self, folder: Path, options: SinkOptions) -> None:
        self.uri = f"masks:{folder}"
        self._options = options
        self._version = 0
        self._classes: tuple[str, ...] = ()
        self._folders = [self._opened(folder)]

    @property
    def written(self) -> str | None:
        left = sum(folder.left() for folder in self._folders)
        return f"{self._folders[0].path} ({left} label maps)" if self._folders[0].count else None

    def write(self, frame: Frame, result: Segmentation) -> None:
        if result.vocabulary_version != self._version:
            self._note_classes(result)
            self._version = result.vocabulary_version
        self._folders[-1].write(frame.name, encode_picture(".png", result.label_map))

    def _opened(self, folder: Path) -> PictureFolder:
        options = self._options
        return PictureFolder(
            folder, ".png", overwrite=options.overwrite, protected=options.protected
        )

    def _note_classes(self, result: Segmentation) -> None:
        shared = min(len(self._classes), len(result.classes))
        if self._classes[:shared] != result.classes[:shared]:
            number = len(self._folders) + 1
            self._folders.append(self._opened(self._folders[0].path / f"ids-{number}"))
            self._classes = ()
        # The longer list explains the older masks, too; only the id of unlabelled pixels follows
        # the dtype, and is 255 or 65535.
        self._classes = max(self._classes, result.classes, key=len)
        classes = {"classes": list(self._classes), "none_id": result.none_id}
        content = json.dumps(classes, indent=2, ensure_ascii=False)
        write_whole(self._folders[-1].path / CLASSES_FILE, content.encode() + b"\n")
        words = "".join(f"{name}\n" for name in self._classes)
        write_whole(self._folders[-1].path / WORDS_FILE, words.encode())

    def close(self) -> None:
        for folder in reversed(self._folders):
            folder.close()


class JsonLines(Sink):
    """One JSON object per frame, flushed line by line so that it can be followed; the file has its
    name from the first one on.

    Keys: source, frame_id, name (stem of the files that other outputs make from the frame), picture
    (path of the picture file it was read from, or null), captured_at (UTC), timestamp_s
    (`time.monotonic()` of the capture), media_s (position in a recording or null), vocabulary_version,
    coverage (fraction per class), unlabelled (fraction), latency_ms (pre, engine, post, total), and of a
    bundle with statistics trust (how much the frame looks like those that the model learned, in [0, 1]).
    """

    def __init__(self, path: Path, options: SinkOptions) -> None:
        self.uri = str(path)
        self._path = path
        self._count = 0
        self._file = GrowingFile(path, overwrite=options.overwrite, protected=options.protected)

    @property
    def written(self) -> str | None:
        return f"{self.uri} ({self._count} lines)" if self._count else None

    def write(self, frame: Frame, result: Segmentation) -> None:
        line = result_numbers(frame, result)
        self._file.appear()
        with writing(self._path):
            self._file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
            self._file.flush()
        self._count += 1

    def close(self) -> None:
        with writing(self._path):
            self._file.close()


def result_numbers(frame: Frame, result: Segmentation) -> dict[str, Any]:
    """Return what there is to say about a result besides its pixels; the keys of JsonLines."""
    latency_ms = {**result.latency_ms, "total": result.total_ms}
    trust = {} if result.trust is None else {"trust": round(result.trust, 4)}
    captured_at = datetime.fromtimestamp(frame.captured_ns / 1e9, timezone.utc)
    return {
        "source": frame.source_id,
        "frame_id": frame.frame_id,
        "name": frame.name,
        "picture": frame.picture,
        "captured_at": captured_at.isoformat(timespec="microseconds"),
        "timestamp_s": round(frame.timestamp_s, 6),
        "media_s": None if frame.media_s is None else round(frame.media_s, 6),
        "vocabulary_version": result.vocabulary_version,
        "coverage": {name: round(part, 6) for name, part in result.coverage.items()},
        "unlabelled": round(result.unlabelled, 6),
        "latency_ms": {name: round(value, 3) for name, value in latency_ms.items()},
        **trust,
    }


def encode_picture(
    suffix: str,
    picture: NDArray[np.uint8] | NDArray[np.uint16],
    settings: Sequence[int] = (),
) -> bytes:
    """Return a picture or label map as the bytes of a file of type `suffix`.

    settings: OpenCV's, each its number and its value. Raises SinkError.
    """
    import cv2

    with contextlib.suppress(cv2.error):  # which OpenCV 4 raises for what later ones only return
        encoded, content = cv2.imencode(suffix, picture, settings)
        if encoded:
            return bytes(content)
    raise SinkError(
        f"a picture of {picture.shape[1]}x{picture.shape[0]} cannot be written as {suffix}; "
        "choose another format"
    )
