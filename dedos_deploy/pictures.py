"""Picture files, read and decoded where anything can be wrong with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.borders import foreign
from dedos_deploy.errors import BadInputError
from dedos_deploy.files import read_regular
from dedos_deploy.picture_sizes import MOST_PIXELS, stated_pixels

Picture = NDArray[np.uint8]
"""uint8 [H, W, 3] BGR."""

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
"""Of the pictures that are looked for in a folder."""


def read_picture(path: Path) -> Picture | None:
    """Return a picture file as `open_picture`; None if it cannot be decoded.

    Raises BadInputError when it cannot be read, and as `decode_picture`.
    """
    return _coloured(_content(path), _named(path))


def open_picture(path: Path, *, whole: bool = False) -> Picture:
    """Return a picture file as uint8 [H, W, 3] BGR, whatever its depth and channels.

    whole: refuse a JPEG that breaks off, of which the decoder draws the rest in grey.
    Raises BadInputError when it cannot be read.
    """
    name, content = _named(path), _content(path)
    if whole and _breaks_off(content):
        raise BadInputError(f"{name} breaks off; copy it again or remove it")
    picture = _coloured(content, name)
    if picture is None:
        raise BadInputError(
            f"{name} cannot be read: damaged or of an unknown format; remove or convert it"
        )
    return picture


def _named(path: Path) -> str:
    return f"picture {str(path)!r}"


def _content(path: Path) -> bytes:
    try:
        return read_regular(path)
    except OSError as error:
        raise BadInputError(f"{_named(path)} cannot be read: {error.strerror}") from error


def _coloured(content: bytes, name: str) -> Picture | None:
    import cv2

    # From memory: OpenCV's own reader fails on some paths (Windows, UTF-8), and writes to stderr.
    picture = decode_picture(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR, name=name)
    return None if picture is None else np.asarray(picture, np.uint8)


def _breaks_off(content: bytes) -> bool:
    """Tell whether a JPEG has no end of image after the start of its last scan."""
    # Neither marker can occur in the scan's own bytes, where every 0xFF is followed by a zero.
    jpeg = content.startswith(b"\xff\xd8")
    return jpeg and content.rfind(b"\xff\xd9") < content.rfind(b"\xff\xda")


def decode_picture(encoded: NDArray[np.uint8], flags: int, *, name: str) -> NDArray[Any] | None:
    """Return the picture in the bytes of a file, BGR or as `flags` say.

    name: what the bytes are, for messages. None if it is damaged, or no JPEG, PNG, WebP, TIFF or BMP.
    Raises BadInputError when it states more than MOST_PIXELS pixels.
    """
    import cv2

    pixels = stated_pixels(encoded.tobytes())
    if pixels is None:
        return None
    if pixels > MOST_PIXELS:
        raise BadInputError(
            f"{name} has {pixels} pixels, at most {MOST_PIXELS} are read; make it smaller"
        )
    try:
        with foreign(lambda why: BadInputError(f"the picture cannot be decoded ({why})")):
            picture: NDArray[Any] | None = cv2.imdecode(encoded, flags)
    except BadInputError:
        return None  # damage that OpenCV did not foresee, which it says by an exception
    return picture
