"""Vocabularies: the ordered class list of a user, with synonyms and per-class thresholds."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from dedos_deploy.errors import BadInputError
from dedos_deploy.spec import MAX_CLASSES

BACKGROUND_WORDS = ("background", "void", "ignore", "unknown", "unlabelled", "unlabeled", "other")
"""Class names of data sets that say what a pixel is not; no text embedding could mean them."""

# Unicode's categories Cc (controls) and Cs (lone surrogates), as ranges: a category look-up per
# letter would be most of the time of a class change.
_NOT_TEXT = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")

_COMMENT = re.compile(r"(^|\s)#.*$")


# Every class change asks three times for every word: to find repeats twice, and for its embedding.
@lru_cache(maxsize=1 << 14)
def canonical_word(word: str) -> str:
    """Return `word` as the text tower sees it: one space between parts, lower case.

    Words with the same canonical form have the same text embedding.

    >>> canonical_word("  Traffic   Light ")
    'traffic light'
    """
    return " ".join(word.split()).lower()


@dataclass(frozen=True)
class Entry:
    """One class: its name, other words for it, and its own score threshold.

    synonyms: words that occupy slots of their own and map to the same class id;
    threshold: lowest score in [0, 1] that labels a pixel, None for the bundle's own.
    """

    name: str
    synonyms: tuple[str, ...] = ()
    threshold: float | None = None

    def __post_init__(self) -> None:
        for word in self.words:
            if not word.strip():
                raise BadInputError(f"entry {self.name!r} has an empty word; remove it or name it")
        if self.threshold is not None and not 0.0 <= self.threshold <= 1.0:
            raise BadInputError(
                f"threshold {self.threshold} of {self.name!r} must lie in [0, 1]; change or drop it"
            )

    @property
    def words(self) -> tuple[str, ...]:
        """The name followed by its synonyms, one slot each."""
        return self.name, *self.synonyms

    @property
    def spelled(self) -> str:
        """The entry as `parse_vocabulary` takes it.

        >>> Entry("car", ("automobile",), 0.25).spelled
        'car|automobile@0.25'
        """
        words = "|".join(self.words)
        return words if self.threshold is None else f"{words}@{self.threshold:g}"


@dataclass(frozen=True)
class Vocabulary:
    """An ordered list of entries; the class id of an entry is its index.

    Raises BadInputError for no entries, more than MAX_CLASSES, or a word that occurs twice
    (letter case and spacing do not tell words apart, since the text tower ignores them).
    """

    entries: tuple[Entry, ...]

    def __post_init__(self) -> None:
        _check_count(len(self.entries), "the vocabulary")
        places = [f"entry {index}" for index in range(1, len(self.entries) + 1)]
        _check_unique(self.entries, places)

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def names(self) -> tuple[str, ...]:
        """Name of every class, indexed by class id."""
        return tuple(entry.name for entry in self.entries)

    @property
    def words(self) -> tuple[str, ...]:
        """Every word in slot order: the names, each followed by its synonyms."""
        return tuple(word for entry in self.entries for word in entry.words)

    @property
    def slot_ids(self) -> tuple[int, ...]:
        """Class id of every slot, aligned with `words`."""
        return tuple(index for index, entry in enumerate(self.entries) for _ in entry.words)


def parse_vocabulary(classes: str | os.PathLike[str] | Sequence[str]) -> Vocabulary:
    """Return the vocabulary described by a string, a sequence of entries, or a text file.

    An entry is `name`, `name|synonym|…`, either with a threshold at its end: `name@0.4`.
    A string separates entries by commas. A string with a path separator or the suffix .txt, and
    no comma, names a UTF-8 file with one entry per line, where blank lines and comments (# at the
    start of a line or after a space) are skipped.

    Raises BadInputError for no class, too many, an empty or repeated word (naming both places),
    a bad threshold, or a file that cannot be read.

    >>> parse_vocabulary("car|automobile, road@0.4").entries
    (Entry(name='car', synonyms=('automobile',), threshold=None), \
Entry(name='road', synonyms=(), threshold=0.4))
    """
    if isinstance(classes, os.PathLike) or (isinstance(classes, str) and _names_a_file(classes)):
        return _from_places(*_read_lines(Path(classes)))
    if isinstance(classes, str):
        if not classes.strip():
            raise BadInputError("the class list is empty; name at least one class, such as 'road'")
        items, source = classes.split(","), "the class list"
    else:
        items, source = list(classes), "the list of classes"
    places = [(f"position {number}", item) for number, item in enumerate(items, 1)]
    return _from_places(places, source)


def _names_a_file(text: str) -> bool:
    if "," in text:
        return False
    return text.strip().lower().endswith(".txt") or "/" in text or os.sep in text


def _read_lines(path: Path) -> tuple[list[tuple[str, str]], str]:
    try:
        # "utf-8-sig" also accepts the byte order mark that some editors write.
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise BadInputError(
            f"class file {str(path)!r} does not exist; check the path, or pass a class whose name "
            f"has a separator inside a list"
        ) from None
    except UnicodeDecodeError as error:
        raise BadInputError(
            f"class file {str(path)!r} is not UTF-8 text at byte {error.start}; save it as UTF-8"
        ) from error
    except (OSError, ValueError) as error:
        # ValueError: a path with a NUL character.
        raise BadInputError(f"class file {str(path)!r} cannot be read: {error}") from error
    lines = ((number, _COMMENT.sub("", line)) for number, line in enumerate(text.split("\n"), 1))
    return [(f"line {number}", line) for number, line in lines if line.strip()], str(path)


def _from_places(items: Sequence[tuple[str, str]], source: str) -> Vocabulary:
    """Build a vocabulary from (place, entry text) pairs; errors name the place in `source`."""
    _check_count(len(items), source)
    entries = tuple(_parse_entry(text, f"{place} of {source}") for place, text in items)
    _check_unique(entries, [f"{place} of {source}" for place, _ in items])
    return Vocabulary(entries)


def _parse_entry(text: str, place: str) -> Entry:
    if not isinstance(text, str):
        raise BadInputError(f"{place} is {text!r}; every class must be a string")
    if "," in text:
        raise BadInputError(
            f"{place} is {text.strip()!r}, which has a comma; write one entry there, and synonyms "
            f"as 'car|automobile'"
        )
    body, at, suffix = text.partition("@")
    words = [" ".join(word.split()) for word in body.split("|")]
    if not all(words):
        raise BadInputError(
            f"{place} is {text.strip()!r}, which has an empty word; remove it or give it a name"
        )
    for word in words:
        if _NOT_TEXT.search(word):
            raise BadInputError(f"{place} is {word!r}, which has characters that are not text")
    return Entry(words[0], tuple(words[1:]), _parse_threshold(suffix, place) if at else None)


def _parse_threshold(text: str, place: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if 0.0 <= value <= 1.0:
        return value
    raise BadInputError(
        f"{place} has the threshold {text.strip()!r}; an entry may end with @ and one number in "
        f"[0, 1], as in 'road@0.4'"
    )


def _check_count(count: int, source: str) -> None:
    if count == 0:
        raise BadInputError(f"{source} has no class; name at least one, such as 'road'")
    if count > MAX_CLASSES:
        raise BadInputError(
            f"{source} has {count} classes, at most {MAX_CLASSES} are possible; shorten it"
        )


def _check_unique(entries: Iterable[Entry], places: Sequence[str]) -> None:
    first: dict[str, str] = {}
    for entry, place in zip(entries, places, strict=True):
        for word in entry.words:
            key = canonical_word(word)
            if key in first:
                raise BadInputError(
                    f"{word!r} occurs twice, in {first[key]} and in {place}; remove one of them"
                )
            first[key] = place
