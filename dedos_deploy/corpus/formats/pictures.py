"""Pictures of an export: files copied as they are or linked to, frames of everything else encoded."""

from __future__ import annotations

import hashlib
import io
import os
import posixpath
from collections.abc import Iterable
from pathlib import Path

from dedos_deploy.borders import foreign
from dedos_deploy.corpus.dataset import Corpus
from dedos_deploy.corpus.folders import scheme_of
from dedos_deploy.corpus.formats.contract import ExportPicture
from dedos_deploy.corpus.formats.options import Pictures
from dedos_deploy.corpus.frames import content_of, kind_of
from dedos_deploy.corpus.records import LabelledFrame
from dedos_deploy.errors import BadInputError
from dedos_deploy.label_files import SIDES_EXCHANGED
from dedos_deploy.picture_sizes import stated_orientation
from dedos_deploy.runtime.sinks.files import encode_picture

_ENCODED = ".jpg"


class PictureSource:
    """Gives the picture of every row of a data set, as it was labelled: upright.

    suffix: what a format takes, None for any; scratch: a folder that need not exist, for `read_ahead`.
    """

    def __init__(
        self, corpus: Corpus, pictures: Pictures, suffix: str | None, scratch: Path
    ) -> None:
        self._corpus = corpus
        self._pictures = pictures
        self._suffix = suffix
        self._scratch = scratch

    def read_ahead(self, rows: Iterable[LabelledFrame]) -> None:
        """Encode the frames of videos and their like in the order in which they are read.

        For rows that are asked for in another order: a video would be read from its start for each.
        """
        if self._pictures != "copy":
            return
        self._scratch.mkdir()
        for row in sorted(rows, key=lambda row: (row.source, row.frame)):
            if kind_of(row.source) != "picture":
                self._ahead(row).write_bytes(self._encoded(row))

    def of(self, row: LabelledFrame) -> ExportPicture:
        """Return a row's picture. Raises BadInputError for one that cannot be read or linked to."""
        own = _suffix_of(row.source) if kind_of(row.source) == "picture" else None
        if self._pictures == "none":
            return ExportPicture(self._suffix or own or _ENCODED)
        content = content_of(row.source) if own is not None else b""
        if own is not None:
            _check_size(row, content)
        fits = own is not None and self._suffix in (None, own) and stated_orientation(content) == 1
        if self._pictures == "link":
            return self._link(row, own, fits=fits)
        if own is not None and fits:
            return ExportPicture(own, content)
        return ExportPicture(self._suffix or _ENCODED, self._content(row))

    def _content(self, row: LabelledFrame) -> bytes:
        ahead = self._ahead(row)
        if not ahead.exists():
            return self._encoded(row)
        content = ahead.read_bytes()
        ahead.unlink()
        return content

    def _encoded(self, row: LabelledFrame) -> bytes:
        return encode_picture(self._suffix or _ENCODED, self._corpus.picture(row))

    def _ahead(self, row: LabelledFrame) -> Path:
        return self._scratch / hashlib.sha256(row.key.encode()).hexdigest()

    def _link(self, row: LabelledFrame, own: str | None, *, fits: bool) -> ExportPicture:
        if own is None or not fits or scheme_of(row.source) is not None:
            raise BadInputError(
                f"{row.source!r} cannot be linked to: {self._obstacle(own)}; give --pictures copy"
            )
        return ExportPicture(own, target=Path(os.path.abspath(os.path.expanduser(row.source))))

    def _obstacle(self, own: str | None) -> str:
        if own is None:
            return "it is no file of one picture"
        if self._suffix not in (None, own):
            return f"the format takes {self._suffix} files alone"
        return "links lead to upright pictures on this machine"


def _check_size(row: LabelledFrame, content: bytes) -> None:
    """Raise BadInputError for a file that is not of the size that was labelled, by its head alone."""
    from PIL import Image

    def damaged(why: str) -> BadInputError:
        return BadInputError(f"picture {row.source!r} cannot be read ({why}); was it replaced?")

    with foreign(damaged), Image.open(io.BytesIO(content)) as file:
        size = file.size
    if stated_orientation(content) >= SIDES_EXCHANGED:
        size = size[::-1]
    if size != (row.width, row.height):
        raise BadInputError(
            f"picture {row.source!r} is {size[0]}x{size[1]} now, and was {row.width}x{row.height} when it "
            "was labelled; it was replaced"
        )


def _suffix_of(source: str) -> str:
    """Return the suffix of a picture's file, in lower case, one name for each format."""
    suffix = posixpath.splitext(source.partition("?")[0].lower())[1]
    return {".jpeg": ".jpg", ".tiff": ".tif"}.get(suffix, suffix)
