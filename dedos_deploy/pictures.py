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


def read_picture(path: Path, flags: int) -> NDArray[Any] | None:
    """Return a picture file, BGR or as `flags` (a cv2.IMREAD_*) say; None if it cannot be had.

    That is a file that cannot be read, is no regular file, or cannot be decoded. Raises
    BadInputError as `decode_picture`.
    """
    try:
        content = read_regular(path)
    except OSError:
        return None
    # From memory: OpenCV's own reader fails on some paths (Windows, UTF-8), and writes to stderr.
    return decode_picture(np.frombuffer(content, np.uint8), flags, name=f"picture {str(path)!r}")


def open_picture(path: Path, *, whole: bool = False) -> NDArray[np.uint8]:
    """Return a picture file as uint8 [H, W, 3] BGR, whatever its depth and channels.

    whole: refuse a JPEG that breaks off, of which the decoder draws the rest in grey.
    Raises BadInputError when it cannot be read.
    """
    import cv2

    try:
        content = read_regular(path)
    except OSError as error:
        raise BadInputError(f"picture {str(path)!r} cannot be read: {error.strerror}") from error
    if whole and _breaks_off(content):
        raise BadInputError(f"picture {str(path)!r} breaks off; copy it again or remove it")
    encoded = np.frombuffer(content, np.uint8)
    picture = decode_picture(encoded, cv2.IMREAD_COLOR, name=f"picture {str(path)!r}")
    if picture is None:
        raise BadInputError(
            f"picture {str(path)!r} is damaged or of an unknown format; remove or convert it"
        )
    return np.asarray(picture, np.uint8)


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
