"""JSON files of annotation tools, read whole."""

from __future__ import annotations

from pathlib import Path

from dedos_deploy.errors import BadInputError
from dedos_deploy.fields import FieldError, load_json
from dedos_deploy.files import read_regular

_MOST_BYTES = 2 << 30


def read_json(path: Path) -> object:
    """Return the value of a JSON file of at most 2 GiB. Raises BadInputError."""
    name = f"annotations {str(path)!r}"
    try:
        text = read_regular(path, limit=_MOST_BYTES).decode("utf-8-sig")
    except OSError as error:
        raise BadInputError(f"{name} cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise BadInputError(f"{name} is no JSON: not UTF-8 text; export it again") from error
    try:
        return load_json(text)
    except FieldError as error:
        raise BadInputError(f"{name} {error}; export it again") from error
