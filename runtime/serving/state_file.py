"""The words and colours of every camera in a file, so that a restart begins where the page ended."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from dedos_deploy.errors import BadInputError, shown
from dedos_deploy.fields import FieldError, checked, load_json
from dedos_deploy.files import Temporary, read_regular, write_atomically
from dedos_deploy.format_version import check_not_newer
from dedos_deploy.runtime.serving.kept_rows import KeptRows, kept_rows, rows_of_kept
from dedos_deploy.runtime.sinks.palette import Colour, colour_bgr, css_colour
from dedos_deploy.vocabulary import Entry, Vocabulary, parse_vocabulary
from dedos_deploy.words_file import TunedRows

FORMAT = 1
WITH_ROWS = 2
"""Format of a file that has rows of learned words."""
MOST_BYTES = 1 << 24
_REMEDY = "name another file, or move it away to begin anew"


@dataclass(frozen=True)
class _Word:
    entry: Any
    """As `Entry.spelled`; what no entry is, `parse_vocabulary` says."""

    colour: str | None
    """Chosen in the page, as #rrggbb."""


@dataclass(frozen=True)
class _Content:
    format: Literal[1, 2]
    cameras: dict[str, list[_Word]]


@dataclass(frozen=True)
class _WithRows(_Content):
    learned: dict[str, KeptRows]
    """Of cameras that have learned words."""


@dataclass(frozen=True)
class Chosen:
    """What was chosen for a camera."""

    vocabulary: Vocabulary
    """With the rows of words that were learned from examples; others are not kept."""
    colours: Mapping[str, Colour]
    """Of some words, instead of those of their entries and the palette."""


class StateFile:
    """A JSON file with what was chosen, written as a whole at every change.

    Cameras of which only the file knows stay in it. `error` says why the last change is not in the
    file, None when it is.
    """

    def __init__(self, path: Path) -> None:
        """Read it; one that does not exist is written at the first change. Raises BadInputError, or
        UnsupportedVersionError for a newer format, and leaves the file as it is."""
        self.error: str | None = None
        self._path = path
        self._writing = threading.Lock()
        try:
            content = read_regular(path, limit=MOST_BYTES) if path.exists() else None
            # A folder that takes no file is better known now than at the first change.
            Temporary(path).discard()
        except OSError as error:
            raise BadInputError(
                f"state {str(path)!r} cannot be kept ({error.strerror}); name a file in a folder that "
                "can be written"
            ) from error
        self._cameras = {} if content is None else self._parsed(content)

    def chosen(self, names: Iterable[str]) -> dict[str, Chosen]:
        """Return what the file has of these cameras."""
        return {name: self._cameras[name] for name in names if name in self._cameras}

    def put(self, name: str, chosen: Chosen) -> None:
        """Keep what was chosen for a camera; a file that cannot be written is an `error`."""
        with self._writing:
            self._cameras[name] = chosen
            try:
                write_atomically(self._path, self._text().encode(), sync=True)
                self.error = None
            except OSError as error:
                self.error = f"state {str(self._path)!r} cannot be written ({error.strerror})"

    def _text(self) -> str:
        cameras = {
            name: [_word(entry, chosen) for entry in chosen.vocabulary.entries]
            for name, chosen in self._cameras.items()
        }
        rows = {name: kept_rows(chosen.vocabulary) for name, chosen in self._cameras.items()}
        learned = {name: kept for name, kept in rows.items() if kept is not None}
        content: dict[str, Any] = {"format": FORMAT, "cameras": cameras}
        if learned:
            content = {**content, "format": WITH_ROWS, "learned": learned}
        return json.dumps(content, ensure_ascii=False, indent=1) + "\n"

    def _parsed(self, content: bytes) -> dict[str, Chosen]:
        name = f"state {str(self._path)!r}"
        try:
            values = load_json(content.decode())
            format_ = values.get("format") if isinstance(values, dict) else None
            check_not_newer(format_, WITH_ROWS, what=f"{name}: field 'format'", otherwise=_REMEDY)
            found = checked(_WithRows if format_ == WITH_ROWS else _Content, values, "")
            learned = found.learned if isinstance(found, _WithRows) else {}
            rows = {
                camera: rows_of_kept(kept, str(self._path), f"learned.{camera}")
                for camera, kept in learned.items()
            }
            return {
                camera: _chosen(words, camera, rows.get(camera))
                for camera, words in found.cameras.items()
            }
        except (FieldError, BadInputError, UnicodeDecodeError) as error:
            said = "is no text" if isinstance(error, UnicodeDecodeError) else error
            raise BadInputError(
                f"{name} cannot be used and is left as it is: {said}; {_REMEDY}"
            ) from error


def _word(entry: Entry, chosen: Chosen) -> dict[str, str | None]:
    colour = chosen.colours.get(entry.name)
    return {"entry": entry.spelled, "colour": None if colour is None else css_colour(colour)}


def _chosen(words: list[_Word], name: str, rows: TunedRows | None) -> Chosen:
    try:
        vocabulary = replace(parse_vocabulary([word.entry for word in words]), tuned=rows)
        coloured = {
            entry.name: colour_bgr(Entry(entry.name, colour=word.colour).colour or "")
            for entry, word in zip(vocabulary.entries, words, strict=True)
            if word.colour is not None
        }
    except BadInputError as error:
        raise BadInputError(f"camera {shown(name)}: {error}") from error
    return Chosen(vocabulary, coloured)
