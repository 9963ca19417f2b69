"""The pictures that an annotation file names, found in a folder and checked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from dedos_deploy.corpus.formats.options import ImportSettings
from dedos_deploy.errors import BadInputError
from dedos_deploy.files import read_regular
from dedos_deploy.pictures import IMAGE_SUFFIXES, open_turned
from dedos_deploy.runtime.sinks.files import encode_picture

_UPRIGHT = ".png"
"""Of a picture that had to be turned."""


@dataclass(frozen=True)
class FoundPicture:
    """A picture as it gets into a label folder."""

    path: Path
    """Where it was found."""

    stem: str
    """Its name there, without the suffix."""

    suffix: str
    content: bytes
    """Of the file."""

    size_hw: tuple[int, int]
    """As it is shown."""


class PictureFiles:
    """Finds pictures below the folder that was given, or `images` beside the annotations.

    Raises BadInputError where there is no such folder.
    """

    def __init__(self, settings: ImportSettings) -> None:
        self._root = _root(settings)
        self._paths: dict[str, list[Path]] = {}
        for path in sorted(self._root.rglob("*")):
            if path.suffix.lower() in IMAGE_SUFFIXES:
                self._paths.setdefault(path.name, []).append(path)
        self._named: dict[str, str] = {}

    def of(self, name: str) -> FoundPicture:
        """Return the picture that annotations call `name`, upright.

        Raises BadInputError where there is none, or several, or it cannot be read; and for two that a label
        folder would have under one name.
        """
        path = self._found(name)
        picture, orientation = open_turned(path, whole=True)
        stem = "_".join(_named(name).with_suffix("").parts)
        other = self._named.setdefault(stem.lower(), name)
        if other != name:
            raise BadInputError(
                f"pictures {other!r} and {name!r} would have one name in a label folder; rename one of them"
            )
        height, width = picture.shape[:2]
        if orientation != 1:
            content = encode_picture(_UPRIGHT, picture)
            return FoundPicture(path, stem, _UPRIGHT, content, (height, width))
        return FoundPicture(path, stem, path.suffix.lower(), read_regular(path), (height, width))

    def _found(self, name: str) -> Path:
        wanted = _named(name).parts
        found = [
            path
            for path in self._paths.get(_named(name).name, [])
            if path.relative_to(self._root).parts[-len(wanted) :] == wanted
        ]
        if not found:
            raise BadInputError(
                f"picture {name!r} is not below {str(self._root)!r}; give the folder of the pictures with "
                "--images"
            )
        if len(found) > 1:
            raise BadInputError(
                f"picture {name!r} is below {str(self._root)!r} {len(found)} times; give the folder of those "
                "that were annotated with --images"
            )
        return found[0]


def _named(name: str) -> PurePosixPath:
    """Return a name of a picture, which tools on Windows write with its separators, as a path."""
    return PurePosixPath(name.replace("\\", "/"))


def _root(settings: ImportSettings) -> Path:
    places = list(_places(settings))
    for place in places:
        if place.is_dir():
            return place
    looked = " and ".join(repr(str(place)) for place in places)
    raise BadInputError(
        f"there is no folder of pictures (looked at {looked}); give one with --images"
    )


def _places(settings: ImportSettings) -> Iterator[Path]:
    if settings.images is not None:
        yield settings.images
        return
    # COCO's files lie in a folder `annotations` beside that of the pictures.
    folder = settings.file.absolute().parent
    yield folder / "images"
    yield folder.parent / "images"
