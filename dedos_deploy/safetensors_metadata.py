"""What safetensors files say of themselves, read from their bytes without torch."""

from __future__ import annotations

import json


def metadata_of(content: bytes) -> dict[str, str]:
    """Return the metadata of a file that `safetensors.numpy.load` has read."""
    # It has checked the header's length and syntax, but does not return it.
    length = int.from_bytes(content[:8], "little")
    metadata: dict[str, str] = json.loads(content[8 : 8 + length]).get("__metadata__") or {}
    return metadata


def is_version(text: str) -> bool:
    """Return whether a text is the number of a version.

    >>> is_version("12"), is_version(""), is_version("1.0"), is_version("1" * 10)
    (True, False, False, False)
    """
    return text.isdecimal() and len(text) <= 9
