from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from dedos_deploy.errors import BadBundleError, BadInputError, DedosError, UnsupportedVersionError
from dedos_deploy.text import load_vocabulary, read_vocabulary_file, save_vocabulary

WORDS = ("road", "Straße", "traffic light")
ROWS = np.eye(3, 8, dtype=np.float32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return save_vocabulary(tmp_path / "base.safetensors", WORDS, ROWS, {"tower": "abc"})


def test_round_trip(path: Path) -> None:
    for source in (path, str(path), path.read_bytes()):
        words, rows = load_vocabulary(source)
        assert words == WORDS
        assert rows.dtype == np.float32 and (rows == ROWS).all()
    assert read_vocabulary_file(path).metadata == {"tower": "abc"}
    assert [entry.name for entry in path.parent.iterdir()] == ["base.safetensors"]


def test_file_mode_follows_the_umask(tmp_path: Path) -> None:
    previous = os.umask(0o022)
    try:
        path = save_vocabulary(tmp_path / "base.safetensors", WORDS, ROWS)
    finally:
        os.umask(previous)
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    ("words", "rows", "message"),
    [
        (WORDS[:2], ROWS, "2 words for 3 embeddings"),
        ((), ROWS[:0], "0 words for 0 embeddings"),
        (("a", "b", "a"), ROWS, "the word 'a' occurs twice"),
        (WORDS, ROWS.astype(np.float64), r"are float64 \[3, 8\], not float32 \[N, D\]"),
        (WORDS, ROWS[0], r"are float32 \[8\], not float32"),
        (WORDS, 2 * ROWS, "embedding of 'road' has length 2, not 1"),
        (WORDS, ROWS * np.float32("nan"), "embedding of 'road' has length nan"),
    ],
)
def test_wrong_content_is_not_written(
    words: tuple[str, ...], rows: np.ndarray, message: str, tmp_path: Path
) -> None:
    with pytest.raises(BadInputError, match=f"base.safetensors cannot be written: .*{message}"):
        save_vocabulary(tmp_path / "base.safetensors", words, rows)
    assert list(tmp_path.iterdir()) == []


def test_unwritable_place_and_reserved_key(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="cannot be written: .*No such file or directory"):
        save_vocabulary(tmp_path / "none" / "base.safetensors", WORDS, ROWS)
    with pytest.raises(BadInputError, match="metadata key 'words' is the format's own"):
        save_vocabulary(tmp_path / "base.safetensors", WORDS, ROWS, {"words": "x"})


def file_with(rows: np.ndarray = ROWS, name: str = "embeddings", **changes: str) -> bytes:
    words = changes.get("words", json.dumps(WORDS))
    metadata = {
        "format": "dedos-vocabulary",
        "version": "1",
        "words": words,
        "sha256": hashlib.sha256(words.encode() + rows.tobytes()).hexdigest(),
    }
    return save({name: rows}, metadata={**metadata, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "other"}, "has no format 'dedos-vocabulary'; it is not a vocabulary file"),
        ({"version": "one"}, "has the version 'one', which is not a number"),
        ({"words": "road"}, "no readable list of words"),
        ({"words": "[1]"}, "no readable list of words"),
        ({"words": "[" * 100_000}, "no readable list of words"),
        ({"words": '["a"]'}, "damaged .1 words for 3 embeddings"),
        ({"sha256": "0"}, "its content does not match its sha256"),
        ({"name": "rows"}, r"holds the tensors \['rows'\], not \['embeddings'\]"),
        ({"rows": ROWS.astype(np.int32)}, "embeddings are int32"),
        ({"rows": np.full_like(ROWS, np.inf)}, "has length inf"),
    ],
)
def test_damaged_files_are_named(changes: dict[str, Any], message: str) -> None:
    assert load_vocabulary(file_with())[0] == WORDS
    with pytest.raises(BadBundleError, match=message):
        load_vocabulary(file_with(**changes))


def test_newer_and_missing_files(tmp_path: Path) -> None:
    with pytest.raises(
        UnsupportedVersionError, match="its version is 2, but .* reads up to 1; install a newer"
    ):
        load_vocabulary(file_with(version="2"))
    with pytest.raises(BadInputError, match="none.safetensors' cannot be read: No such file"):
        load_vocabulary(tmp_path / "none.safetensors")


DATA = file_with()


@settings(max_examples=400)
@given(st.data())
def test_no_damage_goes_unnoticed(data: st.DataObject) -> None:
    """Cut or change the file anywhere: the same content comes back, or a one-line error."""
    place = data.draw(st.integers(0, len(DATA) - 1))
    cut = data.draw(st.booleans())
    value = data.draw(st.integers(0, 255))
    damaged = DATA[:place] if cut else DATA[:place] + bytes([value]) + DATA[place + 1 :]
    try:
        words, rows = load_vocabulary(damaged)
    except DedosError as error:
        assert "\n" not in str(error)
    else:
        assert words == WORDS
        assert (rows == ROWS).all()
