"""Files that ship with the package: the embedded nano weights and the demo bundle."""

from __future__ import annotations

from pathlib import Path

from dedos_deploy.errors import BadInputError

EMBEDDED_WEIGHTS = "nano.safetensors"


def assets_path(name: str) -> Path:
    """Return the path of a file that ships with the package.

    Raises BadInputError when this installation has no such file.
    """
    path = Path(__file__).parent / name
    if not path.is_file():
        raise BadInputError(
            f"this installation of dedos-deploy has no embedded {name!r}; "
            f"give a file of your own, or install a complete package"
        )
    return path
