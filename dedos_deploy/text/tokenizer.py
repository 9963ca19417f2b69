"""CLIP's byte-pair tokenizer on the `tokenizers` library, with the token ids of open_clip.

A row of tokens is [start, …, end, 0, 0, …]: open_clip pads with zeros after the end token, and
the text tower reads its result at the end token, the largest id of the row. Letters that Unicode
added lately may be split differently, as they are between releases of the libraries involved.
"""

from __future__ import annotations

import gzip
import html
import json
import os
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dedos_deploy.borders import foreign
from dedos_deploy.errors import BadBundleError, BadInputError, package_folder
from dedos_deploy.files import read_regular, write_atomically
from dedos_deploy.vocabulary import shortened

if TYPE_CHECKING:
    from tokenizers import Tokenizer as BytePairs

START = "<start_of_text>"
END = "<end_of_text>"

_MOST_BYTES = 1 << 26
"""Of a tokenizer.json; CLIP's has 1.7 million."""

_AFFIX = 16
"""Letters of what marks the end of a word; CLIP's has four."""

MERGES = 49152 - 256 - 2
"""CLIP uses this many lines of its merge file; the rest were never learned."""

# open_clip matches without regard to case. In text that is already lower case this only matters
# for the long s (U+017F), which then equals "s", and for the combining iota (U+0345), which then is
# no letter but not a mark either, and is skipped.
_SPLIT = (
    "<[sſ]tart_of_text>|<end_of_text>|'[sſ]|'t|'re|'ve|'m|'ll|'d"
    r"|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}\x{0345}]+"
)


class Tokenizer:
    """Turns texts into rows of tokens for a text tower.

    source: the path or the bytes of a tokenizer.json made by `write_tokenizer_json`;
    context_length: L, the number of tokens in a row. start_id, end_id: ids of the special tokens.

    Raises BadBundleError when the file cannot be used.
    """

    def __init__(self, source: str | os.PathLike[str] | bytes, context_length: int) -> None:
        self.context_length = context_length
        self._pairs = _load(source)
        start_id, end_id = (self._pairs.token_to_id(token) for token in (START, END))
        if start_id is None or end_id is None:
            raise BadBundleError(
                f"tokenizer.json has no {START} and {END}; it was not made for a CLIP text tower"
            )
        self.start_id: int = start_id
        self.end_id: int = end_id

    def encode(self, texts: Sequence[str], truncate: bool = False) -> npt.NDArray[np.int64]:
        """Return the tokens of N texts, int64 [N, L].

        truncate: cut a text that is too long and keep the end token last, as open_clip does;
        meant for captions, since a class name that is cut is another class name.

        Raises BadInputError naming a text that is too long, unless `truncate`.
        """
        rows = np.zeros((len(texts), self.context_length), dtype=np.int64)
        for row, text in zip(rows, texts, strict=True):
            tokens = [self.start_id, *self._pieces(clean(text)), self.end_id]
            if len(tokens) > self.context_length:
                if not truncate:
                    raise BadInputError(
                        f"{shortened(text)!r} has {len(tokens)} tokens, the text tower takes "
                        f"{self.context_length} with start and end; use a shorter name"
                    )
                tokens = [*tokens[: self.context_length - 1], self.end_id]
            row[: len(tokens)] = tokens
        return rows

    def count(self, text: str) -> int:
        """Return how many tokens a text has, start and end not counted."""
        return sum(1 for _ in self._pieces(clean(text)))

    def _pieces(self, text: str) -> Iterator[int]:
        special = {START: self.start_id, END: self.end_id}
        for part in _split_specials(text):
            if part in special:
                yield special[part]
            elif part:
                with foreign(_failed):
                    ids = self._pairs.encode(part, add_special_tokens=False).ids
                yield from ids


def clean(text: str) -> str:
    """Return `text` as CLIP was trained to read it.

    Broken encodings, quotes and widths are repaired, HTML entities replaced (twice, since the
    captions of the web are often escaped twice), spaces collapsed, and letters made lower case.

    >>> clean("  Caf\\u00c3\\u00a9 &amp;amp; Bar ")
    'café & bar'
    """
    import ftfy

    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(text.split()).lower()


def write_tokenizer_json(dest: str | os.PathLike[str], context_length: int) -> Path:
    """Write CLIP's tokenizer, as open_clip ships it, to a tokenizer.json and return its path.

    context_length: L, stored as truncation and padding, so that any reader of the format gets the
    rows that `Tokenizer` gives. Needs open_clip.

    Raises MissingExtraError without open_clip, and OSError when `dest` cannot be written.
    """
    from tokenizers import Regex, decoders, models, pre_tokenizers, processors
    from tokenizers import Tokenizer as BytePairs

    merges = _clip_merges()
    vocabulary = _clip_vocabulary(merges)
    pairs = BytePairs(models.BPE(vocab=vocabulary, merges=merges, end_of_word_suffix="</w>"))
    pairs.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    pairs.decoder = decoders.BPEDecoder(suffix="</w>")
    pairs.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}",
        special_tokens=[(token, vocabulary[token]) for token in (START, END)],
    )
    pairs.enable_truncation(context_length)
    pairs.enable_padding(length=context_length, pad_id=0, pad_token="!")
    write_atomically(Path(dest), pairs.to_str(pretty=False).encode())
    return Path(dest)


def _failed(why: str) -> BadBundleError:
    return BadBundleError(f"tokenizer.json cannot split words ({why}); export again")


def _load(source: str | os.PathLike[str] | bytes) -> BytePairs:
    from tokenizers import Tokenizer as BytePairs

    def unreadable(why: str) -> BadBundleError:
        return BadBundleError(f"tokenizer.json cannot be read: {why}; export again")

    def damaged(why: str) -> BadBundleError:
        return BadBundleError(f"tokenizer.json is damaged ({why}); export again")

    with foreign(unreadable):
        content = source if isinstance(source, bytes) else read_regular(source, limit=_MOST_BYTES)
        text = content.decode()
    if len(content) > _MOST_BYTES:
        raise damaged(f"it has more than {_MOST_BYTES} bytes")
    # What is no tokenizer of the library may be of any other shape, too.
    with foreign(damaged):
        foreign_step = _foreign_step(json.loads(text))
    if foreign_step is not None:
        raise damaged(f"its {foreign_step} is none that CLIP's tokenizer has")
    # The library raises plain Exception, nothing narrower, for a file that it cannot parse.
    with foreign(damaged):
        pairs = BytePairs.from_str(text)
    pairs.no_truncation()
    pairs.no_padding()
    return pairs


def _foreign_step(parsed: Any) -> str | None:
    """Return the step of a tokenizer.json that could make much of a short word, None if none can.

    The library takes many kinds of steps, any number of times: ten replacements of one letter by
    twenty make 10^13 letters of it, for which it ends the process, and its regular expressions track
    back without end. Vocabulary and merges may be whatever they are.
    """
    if parsed.get("normalizer") is not None:
        return "normalizer"
    splitting = parsed.get("pre_tokenizer") or {"type": "Sequence", "pretokenizers": []}
    steps = splitting["pretokenizers"] if splitting["type"] == "Sequence" else [splitting]
    kinds = [step["type"] for step in steps]
    if kinds not in (["Split", "ByteLevel"], ["ByteLevel"], ["Split"], []):
        return "pre_tokenizer"
    if "Split" in kinds and steps[0]["pattern"] != {"Regex": _SPLIT}:
        return "pattern"
    ending = parsed.get("post_processor") or {"type": "TemplateProcessing", "single": []}
    if ending["type"] != "TemplateProcessing" or len(ending["single"]) > 3:
        return "post_processor"
    model = parsed["model"]
    affixes = (model.get("continuing_subword_prefix"), model.get("end_of_word_suffix"))
    is_plain = model.get("type") == "BPE" and model.get("dropout") is None
    return None if is_plain and all(len(one or "") <= _AFFIX for one in affixes) else "model"


def _split_specials(text: str) -> Iterator[str]:
    """Split at the special tokens that open_clip's expression finds in `text`.

    It scans from the left, so a special token that follows punctuation is a part of it.
    """
    start = 0
    for index in (i for i, letter in enumerate(text) if letter == "<"):
        token = next((special for special in (START, END) if text.startswith(special, index)), None)
        after_word = index == start or text[index - 1] == " " or _is_word(text[index - 1])
        if token is not None and after_word:
            yield text[start:index]
            yield token
            start = index + len(token)
    yield text[start:]


def _is_word(letter: str) -> bool:
    return unicodedata.category(letter)[0] in "LN" or letter == "\u0345"


def _clip_merges() -> list[tuple[str, str]]:
    folder = package_folder("open_clip", extra="export", purpose="writing tokenizer.json")
    path = folder / "bpe_simple_vocab_16e6.txt.gz"
    with gzip.open(path, "rt", encoding="utf-8", newline="\n") as stream:
        lines = stream.read().split("\n")
    # The first line is a version.
    return [(left, right) for left, right in (line.split() for line in lines[1 : MERGES + 1])]


def _clip_vocabulary(merges: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Return token → id: bytes, bytes that end a word, merged pairs, special tokens."""
    letters = _byte_letters()
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *map("".join, merges), START, END]
    return {token: index for index, token in enumerate(tokens)}


def _byte_letters() -> list[str]:
    """Return one visible letter per byte, in the order of CLIP's ids.

    Bytes that are visible in Latin-1 come first as themselves, the others follow as the letters
    from U+0100 on.
    """
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    return [chr(byte) for byte in visible] + [chr(0x100 + i) for i in range(256 - len(visible))]
