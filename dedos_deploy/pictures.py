"""Picture files, read and decoded where anything can be wrong with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.borders import foreign
from dedos_deploy.errors import BadInputError
from dedos_deploy.files import read_regular
from dedos_deploy.picture_sizes import MOST_PIXELS, stated_orientation, stated_pixels

Picture = NDArray[np.uint8]
"""uint8 [H, W, 3] BGR."""

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
"""Of the pictures that are looked for in a folder."""

DARK = 1 << 14
"""A picture of 16 bits whose brightest pixels lie below is nearly black in 8: it holds depth in
millimetres, or what a sensor of 12 bits sees."""
STRETCHED = (
    "pictures of 16 bits that hold depth or little light are shown with their darkest hundredth as "
    "black and their brightest as white"
)
"""What is said once of a source with such pictures."""


def read_picture(path: Path, *, on_stretch: Callable[[], None] = lambda: None) -> Picture | None:
    """Return a picture file as `open_picture`; None if it cannot be decoded.

    on_stretch: called when it is brightened, see `eight_bits`. Raises BadInputError when it cannot be
    read, and as `decode_picture`.
    """
    return coloured(_content(path), name=_named(path), on_stretch=on_stretch)


def open_picture(path: Path, *, whole: bool = False) -> Picture:
    """Return a picture file as uint8 [H, W, 3] BGR, whatever its depth (see `eight_bits`) and channels.

    whole: refuse a JPEG that breaks off, of which the decoder draws the rest in grey. It is turned as
    its EXIF orientation says. Raises BadInputError when it cannot be read.
    """
    return open_turned(path, whole=whole)[0]


def open_turned(path: Path, *, whole: bool = False) -> tuple[Picture, int]:
    """Return a picture file as `open_picture`, and how it was turned (`stated_orientation`)."""
    name, content = _named(path), _content(path)
    if whole and _breaks_off(content):
        raise BadInputError(f"{name} breaks off; copy it again or remove it")
    picture = coloured(content, name=name)
    if picture is None:
        raise BadInputError(
            f"{name} cannot be read: damaged or of an unknown format; remove or convert it"
        )
    return picture, stated_orientation(content)


def _named(path: Path) -> str:
    return f"picture {str(path)!r}"


def _content(path: Path) -> bytes:
    try:
        return read_regular(path)
    except OSError as error:
        raise BadInputError(f"{_named(path)} cannot be read: {error.strerror}") from error


def coloured(
    content: bytes, *, name: str, on_stretch: Callable[[], None] = lambda: None
) -> Picture | None:
    """Return the picture in the bytes of a file as uint8 [H, W, 3] BGR; None and raises as
    `decode_picture`. on_stretch: as of `eight_bits`."""
    import cv2

    # From memory: OpenCV's own reader fails on some paths (Windows, UTF-8), and writes to stderr.
    encoded = np.frombuffer(content, np.uint8)
    picture = decode_picture(encoded, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH, name=name)
    if picture is not None and picture.dtype == np.uint16:
        return eight_bits(picture, on_stretch=on_stretch)
    if picture is not None and picture.dtype != np.uint8:
        picture = decode_picture(encoded, cv2.IMREAD_COLOR, name=name)
    return None if picture is None else np.asarray(picture, np.uint8)


def eight_bits(
    deep: NDArray[np.uint16],
    *,
    is_depth: bool = False,
    on_stretch: Callable[[], None] = lambda: None,
) -> NDArray[np.uint8]:
    """Return a picture of 16 bits in 8, of the same shape: the upper ones of a photograph's range.

    is_depth: of what is known to hold depth, or is darker than DARK, the range between the darkest and
    the brightest hundredth is shown; zeros, which mean nothing was measured, stay black. on_stretch:
    called where this is done.
    """
    measured = deep[::4, ::4][deep[::4, ::4] > 0]
    if measured.size == 0:
        return np.zeros(deep.shape, np.uint8)
    low, high = np.percentile(measured, (1, 99))
    if not is_depth and high >= DARK:
        return (deep >> 8).astype(np.uint8)
    on_stretch()
    low = low if low < high else 0.0
    shown = (deep.astype(np.float32) - low) * (255 / (high - low))
    return np.asarray(shown.clip(0, 255).round(), np.uint8)


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
