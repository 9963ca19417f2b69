from __future__ import annotations

import html
import json
import random
import unicodedata
from pathlib import Path
from typing import Any

import ftfy
import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from dedos_deploy.errors import BadBundleError, BadInputError
from dedos_deploy.text import Tokenizer

CONTEXT = 77

LISTED = [
    "",
    " ",
    "\n\t",
    "a",
    "car",
    "traffic light",
    "Traffic  LIGHT",
    "T-shirt",
    "x-ray",
    "3d printer",
    "he's she'd they're I'm we've you'll can't",
    "rock'n'roll",
    "'s",
    "''s",
    "'S 'T 'RE",
    "it'ſ",
    "dog’s “bed”",
    "l'été",
    "o'clock's",
    "1234567890",
    "a1b2c3",
    "½ cup",
    "²³",
    "Ⅷ",
    "٣٤٥",
    "१२",
    "café",
    "cafe\u0301",
    "CAFÉ",
    "naïve façade",
    "Straße",
    "İstanbul",
    "ǅ",
    "Ωmega",
    "Kelvin K",
    "日本語の車",
    "汽车",
    "自行車 道路",
    "한국어 자동차",
    "รถยนต์",
    "आदमी",
    "машина",
    "автомобиль",
    "سيارة",
    "مَرْحَبًا",
    "שלום עולם",
    "\u202eright to left\u202c",
    "emoji 😀🚗🚦",
    "👩‍👩‍👧‍👦",
    "🏳️‍🌈",
    "👍🏽",
    "🇩🇪🇫🇷",
    "❤️",
    "a\u200bb",
    "a\u200db",
    "\ufeffcar",
    "z\u0335\u0321a\u0334l\u0337g\u0336o",
    "&amp;",
    "&amp;amp;",
    "a < b &amp;amp; c",
    "&lt;b&gt;car&lt;/b&gt;",
    "&#39;s",
    "&#x1F600;",
    "&nbsp;car",
    "AT&T",
    "fish & chips",
    "&unknown;",
    "&#0;",
    "&#xD800;",
    "Ã©tÃ©",
    "â€œquotedâ€\x9d",
    "ﬁre ﬂag",
    "ＡＢＣ１２３",
    "!!!",
    "...---...",
    "a...b",
    "?!?!",
    "#hashtag @user",
    "$5.00",
    "50%",
    "C++",
    "c#",
    "a/b\\c",
    "<>",
    "[x] (y) {z}",
    "{}",
    "_under_score_",
    "~`^|",
    "—–‒",
    "…",
    "\x00",
    "a\x00b",
    "\x01\x02",
    "\x1b[31m",
    "\x7f",
    "\x85",
    "\u2028",
    "\xa0\xa0",
    "<start_of_text>",
    "<end_of_text>",
    "a <END_OF_TEXT> b",
    "!<start_of_text>",
    "a<end_of_text>'s",
    "<end_of_text><end_of_text>",
    "<ſtart_of_text>",
    "<end_of",
    "a\u0345b!\u0345!",
    "supercalifragilisticexpialidocious",
    "ab" * 200,
    "word " * 200,
    "!" * 500,
    "é" * 300,
    "😀" * 100,
    "1" * 100,
    "'s" * 100,
    "a" * 5000,
]

PIECES = [
    *"abcstSTdmlrve019 .,!?'’&;#<>_-\t\n\x00\u200d\u0301éßÀﬁſ",
    "'s",
    "'re",
    "&amp;",
    "&lt;",
    "&#39;",
    "日",
    "한",
    "ع",
    "😀",
    "👩‍👧",
    "Ã©",
    "<start_of_text>",
    "<end_of_text>",
    "car",
    "traffic light",
]


def is_old(letter: str) -> bool:
    """Say whether Unicode 3.2 has the character.

    Letters of the newest versions are punctuation to a library that does not know them yet, so
    there open_clip's own tokens change with the version of its `regex` package.
    """
    return unicodedata.ucd_3_2_0.category(letter) not in ("Cn", "Cs")


def hard_strings() -> list[str]:
    """The listed strings, mixtures of awkward pieces, and random characters."""
    rng = random.Random(0)
    assigned = [letter for letter in map(chr, range(0x30000)) if is_old(letter)]
    mixed = ["".join(rng.choices(PIECES, k=rng.randint(1, 50))) for _ in range(400)]
    spread = ["".join(rng.choices(assigned, k=rng.randint(1, 25))) for _ in range(300)]
    return [*LISTED, *mixed, *spread]


@pytest.fixture(scope="module")
def tokenizer(tokenizer_json: Path) -> Tokenizer:
    return Tokenizer(tokenizer_json, CONTEXT)


@pytest.fixture(scope="module")
def reference() -> Any:
    return pytest.importorskip("open_clip").SimpleTokenizer(context_length=CONTEXT)


def test_parity_with_open_clip_on_hard_strings(tokenizer: Tokenizer, reference: Any) -> None:
    texts = hard_strings()
    assert len(set(texts)) >= 500
    ours, theirs = tokenizer.encode(texts, truncate=True), reference(texts).numpy()
    assert ours.dtype == np.int64
    different = [texts[row] for row in np.flatnonzero((ours != theirs).any(axis=1))]
    assert different == []


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(exclude_categories=("Cs",)).filter(is_old), max_size=40))
@example(text=":\xf0\x98\xb6\x80")
def test_parity_with_open_clip_on_any_text(tokenizer: Tokenizer, reference: Any, text: str) -> None:
    # Cleaning undoes mojibake, and can so bring up a letter of a newer Unicode.
    cleaned = ftfy.fix_text(html.unescape(html.unescape(text)))
    assume(all(map(is_old, cleaned)))
    assert (tokenizer.encode([text], truncate=True) == reference([text]).numpy()).all()


def test_known_ids(tokenizer: Tokenizer) -> None:
    # From CLIP's vocabulary, by hand: "a</w>" is 320, "photo</w>" 1125, "cat</w>" 2368.
    row = tokenizer.encode(["a photo cat"])[0]
    assert row.tolist() == [49406, 320, 1125, 2368, 49407] + [0] * (CONTEXT - 5)
    assert (tokenizer.start_id, tokenizer.end_id) == (49406, 49407)


def test_truncation_keeps_the_end_token(tokenizer: Tokenizer) -> None:
    row = tokenizer.encode(["a " * 100], truncate=True)[0]
    assert row.tolist() == [49406] + [320] * (CONTEXT - 2) + [49407]


def test_no_texts(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode([]).shape == (0, CONTEXT)


def test_a_text_that_does_not_fit_is_refused(tokenizer_json: Path) -> None:
    short = Tokenizer(tokenizer_json, 8)
    assert short.encode(["a a a a a a"]).shape == (1, 8)
    with pytest.raises(BadInputError, match="'a a a a a a a' has 9 tokens, the text tower takes 8"):
        short.encode(["a", "a a a a a a a"])
    with pytest.raises(BadInputError, match="'aaaa.{40,60}…' has .* tokens"):
        short.encode(["aaaa " * 100])


def test_the_file_alone_gives_the_same_rows(tokenizer: Tokenizer, tokenizer_json: Path) -> None:
    import tokenizers

    bare = tokenizers.Tokenizer.from_file(str(tokenizer_json))
    texts = ["a photo of a cat", "", "car " * 100]
    rows = [encoding.ids for encoding in bare.encode_batch(texts)]
    assert rows == tokenizer.encode(texts, truncate=True).tolist()


def test_bytes_and_path_agree(tokenizer: Tokenizer, tokenizer_json: Path) -> None:
    other = Tokenizer(tokenizer_json.read_bytes(), CONTEXT)
    assert (other.encode(["car"]) == tokenizer.encode(["car"])).all()


def test_damaged_files_are_named(tokenizer_json: Path, tmp_path: Path) -> None:
    data = tokenizer_json.read_bytes()
    with pytest.raises(BadBundleError, match="tokenizer.json is damaged"):
        Tokenizer(data[: len(data) // 2], CONTEXT)
    with pytest.raises(BadBundleError, match="tokenizer.json cannot be read"):
        Tokenizer(b"\xff" + data, CONTEXT)
    with pytest.raises(BadBundleError, match="tokenizer.json cannot be read"):
        Tokenizer(tmp_path / "tokenizer.json", CONTEXT)
    other = {"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}
    with pytest.raises(BadBundleError, match="has no <start_of_text> and <end_of_text>"):
        Tokenizer(json.dumps(other).encode(), CONTEXT)
