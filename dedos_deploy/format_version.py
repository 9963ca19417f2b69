"""Files of a newer release: what is said of them, whatever their format is."""

from __future__ import annotations

from dedos_deploy.errors import UnsupportedVersionError, shown
from dedos_deploy.version import __version__


def check_not_newer(found: object, latest: int, *, what: str, otherwise: str = "") -> None:
    """Raise UnsupportedVersionError where the version of a file is a whole number after `latest`.

    What is no whole number is for the check of the field to refuse.
    what: the file and its field, for messages; otherwise: what else to do than to install a newer release.
    """
    if type(found) is int and found > latest:
        hint = f", or {otherwise}" if otherwise else ""
        raise UnsupportedVersionError(
            f"{what} is {shown(found)}, but dedos-deploy {__version__} reads up to {latest}; install a newer "
            f"dedos-deploy here, the way this one was{hint}"
        )
