"""Vocabularies: the ordered class list of a user, with synonyms, thresholds and colours per class."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from dedos_deploy.class_files import class_content, class_lines
from dedos_deploy.errors import BadInputError
from dedos_deploy.spec import MAX_CLASSES, SLOT_BUCKETS
from dedos_deploy.words_file import TunedRows, is_words_file, read_words_file

BACKGROUND_WORDS = ("background", "void", "ignore", "unknown", "unlabelled", "unlabeled", "other")
"""Class names of data sets that say what a pixel is not; no text embedding could mean them."""

WORDS_PER_REQUEST = SLOT_BUCKETS[-1]
"""Most words, synonyms counted, that one request from outside may ask for."""

MOST_LETTERS = 512
"""Longest word; every text tower takes less."""

SUFFIXES = (".txt", ".words")
"""How the name of a class file ends."""

# Unicode's categories Cc (controls) and Cs (lone surrogates), as ranges: a category look-up per
# letter would be most of the time of a class change.
_NOT_TEXT = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")

# How a file may be named from its root, from here or from home; no class is called so.
_PATH_START = re.compile(r"[/~\\]|\.{1,2}[/\\]|[A-Za-z]:[/\\]")

_COLOUR = re.compile(r"#[0-9a-fA-F]{6}")

# A word may end in one, as `c#`, or have one after a space; but what stands right after one in a word
# was meant as a colour.
_NEARLY_COLOUR = re.compile(r"\S#\S")

_CACHED_LETTERS = 64

# Marks of a list of words, which after a backslash are letters of a word. While a list is read such
# letters are code points that are no characters and never will be.
_MARKS = ",|@#\\"
_MARK_OF = {0xFDD0 + index: mark for index, mark in enumerate(_MARKS)}
_LETTER_OF = {mark: chr(code) for code, mark in _MARK_OF.items()}
_ESCAPED = re.compile(r"\\([,|@#\\])")
_MARK = re.compile(r"[,|@#\\]")


def canonical_word(word: str) -> str:
    """Return `word` as the text tower sees it: one space between parts, lower case.

    Words with the same canonical form have the same text embedding.

    >>> canonical_word("  Traffic   Light ")
    'traffic light'
    """
    # Long words are not kept: what a program holds must not depend on what others send it.
    return _canonical(word) if len(word) <= _CACHED_LETTERS else _canonical.__wrapped__(word)


# Every class change asks three times for every word: to find repeats twice, and for its embedding.
@lru_cache(maxsize=1 << 12)
def _canonical(word: str) -> str:
    return " ".join(word.split()).lower()


def shortened(text: str, limit: int = 60) -> str:
    """Return `text`, or its beginning and an ellipsis, for a message.

    >>> shortened("traffic light", 9)
    'traffic …'
    """
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


@dataclass(frozen=True)
class Entry:
    """One class: its name, other words for it, its own score threshold and colour."""

    name: str
    synonyms: tuple[str, ...] = ()
    """Words that occupy slots of their own and map to the same class id."""

    threshold: float | None = None
    """Lowest score in [0, 1] that labels a pixel, None for the bundle's own."""

    colour: str | None = None
    """Its colour in pictures as `#rrggbb`, None for the word's own."""

    def __post_init__(self) -> None:
        for word in self.words:
            if not word.strip():
                raise BadInputError(f"entry {self.name!r} has an empty word; remove it or name it")
        if self.threshold is not None and not 0.0 <= self.threshold <= 1.0:
            raise BadInputError(
                f"threshold {self.threshold} of {self.name!r} must lie in [0, 1]; change or drop it"
            )
        if self.colour is not None and not _COLOUR.fullmatch(self.colour):
            raise BadInputError(
                f"{shortened(self.colour)!r} of {self.name!r} is no colour; write #rrggbb, as #808080"
            )

    @property
    def words(self) -> tuple[str, ...]:
        """The name followed by its synonyms, one slot each."""
        return self.name, *self.synonyms

    @property
    def spelled(self) -> str:
        """The entry as `parse_vocabulary` takes it.

        >>> Entry("car", ("automobile",), 0.25, "#3f63ff").spelled, Entry("sky, blue").spelled
        ('car|automobile@0.25#3f63ff', 'sky\\\\, blue')
        """
        threshold = "" if self.threshold is None else f"@{self.threshold:g}"
        words = "|".join(_MARK.sub(r"\\\g<0>", word) for word in self.words)
        return words + threshold + (self.colour or "")


@dataclass(frozen=True)
class Vocabulary:
    """An ordered list of entries; the class id of an entry is its index.

    Raises BadInputError for no entries, more than MAX_CLASSES, or a word that occurs twice
    (letter case and spacing do not tell words apart, since the text tower ignores them).
    """

    entries: tuple[Entry, ...]

    tuned: TunedRows | None = None
    """Embeddings that some of the words, or others, have instead of those of the text tower."""

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

    @property
    def tuned_names(self) -> frozenset[str]:
        """Names of the entries that have a word with a row in `tuned`."""
        tuned = set(map(canonical_word, self.tuned.words)) if self.tuned is not None else set()
        return frozenset(
            entry.name
            for entry in self.entries
            if any(canonical_word(word) in tuned for word in entry.words)
        )


def parse_vocabulary(
    classes: str | os.PathLike[str] | Sequence[str], *, most_words: int | None = None
) -> Vocabulary:
    """Return the vocabulary described by a string or a sequence of entries, or in a file.

    An entry is `name`, `name|synonym|…`, either with a threshold or a colour for pictures at its end, or
    both: `name@0.4`, `name#808080`, `name@0.4#808080`. A backslash before , | @ # or a backslash makes it
    a letter of the word: `sky\\, blue`.
    A string is a list of entries with commas between them, whatever it looks like; only a
    `pathlib.Path` names a file, see `vocabulary_from_file`.
    most_words: with synonyms, None for as many as have class ids; requests from outside get
    WORDS_PER_REQUEST.

    Raises BadInputError for no class, too many, an empty, overlong or repeated word (naming both
    places), a bad threshold or colour, one word that looks like the name of a file, or a file that cannot be
    read.

    >>> parse_vocabulary("car|automobile, road@0.4#808080").entries
    (Entry(name='car', synonyms=('automobile',), threshold=None, colour=None), \
Entry(name='road', synonyms=(), threshold=0.4, colour='#808080'))
    """
    if isinstance(classes, os.PathLike):
        vocabulary = vocabulary_from_file(classes)
        _check_words(len(vocabulary.words), most_words)
        return vocabulary
    if isinstance(classes, str):
        # Counted before anything is split: the list may come from outside.
        classes = _masked(classes)
        _check_words(1 + classes.count(",") + classes.count("|"), most_words)
        items, source = _split(classes), "the class list"
    else:
        items, source = list(classes), "the list of classes"
        _check_words(sum(1 + _masked(str(item)).count("|") for item in items), most_words)
    places = [(f"position {number} of {source}", item) for number, item in enumerate(items, 1)]
    return _vocabulary_of(places, source)


def vocabulary_from_file(path: str | os.PathLike[str]) -> Vocabulary:
    """Return the vocabulary in a UTF-8 file with one entry a line, as `parse_vocabulary` takes them, or
    in a words file (see `words_file`), whose rows come with it.

    Blank lines and comments (# at the start of a line or after a space, but not a colour) are skipped.
    The path must come from a person or a program, never from a request. A pipe is read to its end.

    Raises BadInputError for a file that cannot be read, is no file, or has more than
    `class_files.MOST_BYTES`, and for lines that are no entries: by their numbers, without their
    text.
    """
    content = class_content(path)
    if not is_words_file(content):
        return _vocabulary_of(class_lines(path, content), str(path), quoting=False)
    tuned = read_words_file(path, content)
    places = [(f"entry {number} of {path}", entry) for number, entry in enumerate(tuned.entries, 1)]
    vocabulary = replace(_vocabulary_of(places, str(path)), tuned=tuned)
    without = set(map(canonical_word, vocabulary.words)) - set(map(canonical_word, tuned.words))
    if without:
        raise BadInputError(
            f"words file {str(path)!r} has no row for {shortened(min(without))!r}; tune the words again"
        )
    return vocabulary


def typed_vocabulary(text: str) -> Vocabulary:
    """Return the vocabulary that a person typed on a command line: a list of words, or a file.

    Text with a path separator or one of SUFFIXES, and no comma, names a file. No other place in the
    program may take a string for a file name: this function is for `--classes` and its like alone.

    Raises BadInputError, as `parse_vocabulary` and `vocabulary_from_file` do.
    """
    return vocabulary_from_file(text) if _names_a_file(text) else parse_vocabulary(text)


def _masked(text: str) -> str:
    return _ESCAPED.sub(lambda found: _LETTER_OF[found[1]], text) if "\\" in text else text


def _unmasked(text: str) -> str:
    return text.translate(_MARK_OF)


def _names_a_file(text: str) -> bool:
    if "," in text:
        return False
    return text.strip().lower().endswith(SUFFIXES) or "/" in text or os.sep in text


def _vocabulary_of(
    items: Sequence[tuple[str, str]], source: str, *, quoting: bool = True
) -> Vocabulary:
    """Build a vocabulary from (place, entry text) pairs; errors name the place and `source`.

    quoting: whether errors may show the text, which is the caller's own; that of a file is not.
    """
    _check_count(len(items), source)
    entries = tuple(_parse_entry(text, place, quoting) for place, text in items)
    _check_unique(entries, [place for place, _ in items], quoting)
    return Vocabulary(entries)


def _split(classes: str) -> list[str]:
    if not classes.strip():
        raise BadInputError("the class list is empty; name at least one class, such as 'road'")
    items = classes.split(",")
    if len(items) == 1 and _looks_like_a_file(classes.strip()):
        # The answer is the same whether there is such a file or not: nothing looks for it.
        raise BadInputError(
            f"the class list is {shortened(classes.strip())!r}, which looks like a file, and a string "
            "is always a list of words; a program reads a file with pathlib.Path(...), a command "
            "line with --classes FILE"
        )
    return items


def _looks_like_a_file(text: str) -> bool:
    return text.lower().endswith(SUFFIXES) or _PATH_START.match(text) is not None


def _parse_entry(text: str, place: str, quoting: bool) -> Entry:
    if not isinstance(text, str):
        raise BadInputError(f"{place} is {text!r}; every class must be a string")
    text = _masked(text)
    subject = f"{place} is {shortened(_unmasked(text).strip())!r}, which" if quoting else place
    if "," in text:
        raise BadInputError(
            f"{subject} has a comma; write one entry there, synonyms as 'car|automobile', and a comma "
            "of a word as '\\,'"
        )
    text, colour = _without_colour(text, place, quoting)
    body, at, suffix = text.partition("@")
    if _NEARLY_COLOUR.search(body):
        raise BadInputError(
            f"{subject} has a # that begins no colour; one is # and six hexadecimal digits at the end, as "
            "in 'road#808080', and a # of a word is '\\#'"
        )
    words = [" ".join(word.split()) for word in body.split("|")]
    if not all(words):
        raise BadInputError(f"{subject} has an empty word; remove it or give it a name")
    for word in words:
        if len(word) > MOST_LETTERS:
            raise BadInputError(
                f"{subject} has a word of {len(word)} letters, at most {MOST_LETTERS} are possible; "
                "use a shorter name"
            )
        if _NOT_TEXT.search(word):
            raise BadInputError(f"{subject} has characters that are not text; remove them")
    threshold = _parse_threshold(suffix, place, quoting) if at else None
    name, *synonyms = map(_unmasked, words)
    return Entry(name, tuple(synonyms), threshold, colour)


def _without_colour(text: str, place: str, quoting: bool) -> tuple[str, str | None]:
    """Split an entry's colour off, which stands at its end or before its threshold."""
    found = list(re.finditer(rf"({_COLOUR.pattern})\s*(?=[@#]|$)", text))
    if len(found) > 1:
        given = f" in {shortened(_unmasked(text).strip())!r}" if quoting else ""
        raise BadInputError(f"{place} has two colours{given}; an entry may have one")
    if not found:
        return text, None
    return text[: found[0].start()] + text[found[0].end() :], found[0][1].lower()


def _parse_threshold(text: str, place: str, quoting: bool) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if 0.0 <= value <= 1.0:
        return value
    given = f"the threshold {shortened(text.strip())!r}" if quoting else "a threshold that is none"
    raise BadInputError(
        f"{place} has {given}; an entry may end with @ and one number in [0, 1], as in 'road@0.4'"
    )


def _check_words(count: int, most: int | None) -> None:
    if most is not None and count > most:
        raise BadInputError(
            f"the class list has {count} words, synonyms counted, at most {most} are allowed in one "
            "request; ask for fewer"
        )


def _check_count(count: int, source: str) -> None:
    if count == 0:
        raise BadInputError(f"{source} has no class; name at least one, such as 'road'")
    if count > MAX_CLASSES:
        raise BadInputError(
            f"{source} has {count} classes, at most {MAX_CLASSES} are possible; shorten it"
        )


def _check_unique(entries: Iterable[Entry], places: Sequence[str], quoting: bool = True) -> None:
    first: dict[str, str] = {}
    for entry, place in zip(entries, places, strict=True):
        for word in entry.words:
            key = canonical_word(word)
            if key in first:
                subject = repr(shortened(word)) if quoting else "a word"
                raise BadInputError(
                    f"{subject} occurs twice, in {first[key]} and in {place}; remove one of them"
                )
            first[key] = place
