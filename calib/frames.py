"""Real frames from whatever the user has: a picture, a folder of them, or a video."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.errors import BadInputError
from dedos_deploy.files import read_regular
from dedos_deploy.pictures import decode_picture

if TYPE_CHECKING:
    import cv2

Frame = NDArray[np.uint8]

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm"})


_FRAME_COUNT = 7
"""cv2.CAP_PROP_FRAME_COUNT, of a module that is imported only when frames are read."""


def sample_frames(source: str | os.PathLike[str], *, count: int, seed: int = 0) -> list[Frame]:
    """Return up to `count` frames of `source`, uint8 [H, W, 3] BGR, the same ones every time.

    source: a picture; a folder, searched with its sub-folders; or a video file. A folder gives a
    random choice drawn from `seed`, in the order of the names; a video gives frames spread evenly
    over its length. Fewer frames come back only when there are no more.

    Raises BadInputError when the source does not exist, or holds a picture that cannot be read, or
    nothing to read at all.
    """
    if count < 1:
        raise BadInputError(f"the number of frames must be at least 1, not {count}")
    path = Path(source)
    if path.is_dir():
        return _from_folder(path, count, seed)
    if not path.is_file():
        raise BadInputError(
            f"{str(path)!r} does not exist; give a picture, a folder of pictures or a video file"
        )
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return [read_image(path)]
    return _from_video(path, count)


def read_image(path: Path, *, whole: bool = False) -> Frame:
    """Return a picture as uint8 [H, W, 3] BGR, whatever its depth and channels.

    whole: refuse a JPEG that breaks off, of which the decoder draws the rest in grey.
    Raises BadInputError when it cannot be read.
    """
    import cv2

    try:
        content = np.frombuffer(read_regular(path), np.uint8)
    except OSError as error:
        raise BadInputError(f"picture {str(path)!r} cannot be read: {error.strerror}") from error
    if whole and _breaks_off(content.tobytes()):
        raise BadInputError(f"picture {str(path)!r} breaks off; copy it again or remove it")
    image = decode_picture(content, cv2.IMREAD_COLOR, name=f"picture {str(path)!r}")
    if image is None:
        raise BadInputError(
            f"picture {str(path)!r} is damaged or of an unknown format; remove or convert it"
        )
    return image


def _breaks_off(content: bytes) -> bool:
    """Tell whether a JPEG has no end of image after the start of its last scan."""
    # Neither marker can occur in the scan's own bytes, where every 0xFF is followed by a zero.
    jpeg = content.startswith(b"\xff\xd8")
    return jpeg and content.rfind(b"\xff\xd9") < content.rfind(b"\xff\xda")


def _from_folder(folder: Path, count: int, seed: int) -> list[Frame]:
    paths = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()
    )
    if not paths:
        raise BadInputError(
            f"folder {str(folder)!r} has no picture ({', '.join(sorted(IMAGE_SUFFIXES))}); "
            f"give a folder of pictures or a video file"
        )
    chosen = sorted(random.Random(seed).sample(range(len(paths)), min(count, len(paths))))
    return [read_image(paths[index]) for index in chosen]


def _from_video(path: Path, count: int) -> list[Frame]:
    with _opened(path) as video:
        total = int(video.get(_FRAME_COUNT)) if video.isOpened() else 0
    frames = _spread(path, total, count)
    if (len(frames) < count and len(frames) < total) or total < 0:
        # A recording that broke off: its header promises more, or nothing, so count what is there.
        with _opened(path) as video:
            total = sum(1 for _ in iter(video.grab, False))
        frames = _spread(path, total, count)
    if not frames:
        raise BadInputError(
            f"{str(path)!r} is not a readable picture or video; "
            f"give a picture, a folder of pictures or a video file"
        )
    return frames


@contextmanager
def _opened(path: Path) -> Iterator[cv2.VideoCapture]:
    import cv2

    video = cv2.VideoCapture(os.fspath(path))
    try:
        yield video
    finally:
        video.release()


def _spread(path: Path, total: int, count: int) -> list[Frame]:
    """Return up to `count` frames from the middles of equal parts of the first `total`."""
    parts = min(count, total)
    wanted = {(2 * part + 1) * total // (2 * parts) for part in range(parts)}
    frames: list[Frame] = []
    with _opened(path) as video:
        # Decoded from the start: seeking lands on other frames with other builds of FFmpeg.
        for index in range(max(wanted, default=-1) + 1):
            if not video.grab():
                break
            if index in wanted:
                ok, frame = video.retrieve()
                frames += [frame] if ok else []  # type: ignore[list-item]
    return frames
