from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from dedos_deploy.errors import BadInputError
from dedos_deploy.spec import MAX_CLASSES
from dedos_deploy.vocabulary import (
    Entry,
    Vocabulary,
    parse_vocabulary,
    typed_vocabulary,
    vocabulary_from_file,
)


def test_string_with_synonyms_and_thresholds() -> None:
    vocabulary = parse_vocabulary(" car |  automobile@0.4,traffic   light, sky@1 ")
    assert vocabulary.entries == (
        Entry("car", ("automobile",), 0.4),
        Entry("traffic light"),
        Entry("sky", threshold=1.0),
    )
    assert vocabulary.names == ("car", "traffic light", "sky")
    assert vocabulary.words == ("car", "automobile", "traffic light", "sky")
    assert vocabulary.slot_ids == (0, 0, 1, 2)
    assert len(vocabulary) == 3


def test_string_list_and_file_agree(tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    path.write_bytes("\ufeff# the road\r\ncar|auto@0.2 # cars\r\n\r\n  Straße\r\nc#\r\n".encode())
    expected = parse_vocabulary(["car|auto@0.2", "Straße", "c#"])
    assert typed_vocabulary(str(path)) == expected
    assert vocabulary_from_file(str(path)) == vocabulary_from_file(path) == expected
    assert parse_vocabulary(path) == expected
    assert parse_vocabulary("car|auto@0.2,Straße,c#") == expected


def test_marks_after_a_backslash_are_letters(tmp_path: Path) -> None:
    text = r"sky\, blue|sky\|air@0.3,road\@night,c\#,back\\slash,a\b"
    expected = (
        Entry("sky, blue", ("sky|air",), 0.3),
        *map(Entry, ("road@night", "c#", "back\\slash", "a\\b")),
    )
    assert parse_vocabulary(text).entries == typed_vocabulary(text).entries == expected
    path = tmp_path / "classes.txt"
    path.write_text("\n".join(entry.spelled for entry in expected))
    assert vocabulary_from_file(path).entries == expected
    with pytest.raises(BadInputError, match=r"position 1 .* has a comma.* of a word as '\\,'"):
        parse_vocabulary(["sky, blue"])


@given(st.lists(st.text("ab,|@#\\ ", min_size=1), min_size=1, max_size=5))
def test_a_spelled_list_is_read_as_the_words_it_was_made_of(texts: list[str]) -> None:
    words = list(dict.fromkeys(word for text in texts if (word := " ".join(text.split()))))
    assume(words)
    own = Vocabulary(tuple(Entry(word, threshold=0.5) for word in words))
    assert parse_vocabulary(",".join(entry.spelled for entry in own.entries)) == own
    assert parse_vocabulary([entry.spelled for entry in own.entries]) == own


def test_an_entry_may_have_a_colour(tmp_path: Path) -> None:
    entries = parse_vocabulary("road#8080FA, car|auto@0.4#102030,sky #0a0B0c@0.2,c#").entries
    assert entries == (
        Entry("road", colour="#8080fa"),
        Entry("car", ("auto",), 0.4, "#102030"),
        Entry("sky", threshold=0.2, colour="#0a0b0c"),
        Entry("c#"),
    )
    assert parse_vocabulary([entry.spelled for entry in entries]).entries == entries
    path = tmp_path / "classes.txt"
    path.write_text(
        "road#8080fa # asphalt\ncar|auto@0.4#102030\nsky #0a0b0c @0.2 # blue\nc#\n#fa is none\n"
    )
    assert vocabulary_from_file(path).entries == entries
    with pytest.raises(BadInputError, match="'#80' of 'road' is no colour; write #rrggbb"):
        Entry("road", colour="#80")


def test_a_separator_inside_a_list_or_among_commas_is_a_name() -> None:
    assert parse_vocabulary(["tv/monitor"]).names == ("tv/monitor",)
    assert parse_vocabulary("tv/monitor,desk").names == ("tv/monitor", "desk")
    assert parse_vocabulary("tv/monitor").names == ("tv/monitor",)
    assert typed_vocabulary("tv/monitor,desk").names == ("tv/monitor", "desk")


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ("", "class list is empty; name at least one"),
        (" \n", "class list is empty"),
        ([], "has no class; name at least one"),
        ("car,,road", "position 2 of the class list is '', which has an empty word"),
        ("car|,road", r"position 1 of the class list is 'car\|', which has an empty word"),
        ("car,road,Car", "'Car' occurs twice, in position 1 .* and in position 3"),
        ("car|bus,road|bus", "'bus' occurs twice, in position 1 .* and in position 2"),
        ("car|car", "'car' occurs twice, in position 1 .* and in position 1"),
        ("traffic light,traffic  light", "'traffic light' occurs twice"),
        ("car@2", r"threshold '2'; an entry may end with @ and one number in \[0, 1\]"),
        ("car@nan", "threshold 'nan'"),
        ("car@", "threshold ''"),
        ("car@0.2|auto", r"threshold '0.2\|auto'"),
        (["car, road"], "position 1 of the list of classes is 'car, road', which has a comma"),
        (["car", 3], "position 2 of the list of classes is 3; every class must be a string"),
        ("road#80808", "'road#80808', which has a # that begins no colour; one is # and six"),
        ("road#grey", "has a # that begins no colour"),
        ("road#808080#909090", "position 1 .* has two colours in 'road#808080#909090'"),
        ("#808080", "'#808080', which has an empty word"),
        ("ro\x00ad", "has characters that are not text"),
        ("ro\udcffad", "has characters that are not text"),
        ("classes.txt", "'classes.txt', which looks like a file, and a string is always a list"),
        ("./street", "'./street', which looks like a file"),
        ("x" * 513, "a word of 513 letters, at most 512 are possible"),
    ],
)
def test_bad_classes_are_named(
    classes: str | list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInputError, match=message):
        parse_vocabulary(classes)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"car\n\n# note\nroad\ncar\n", "a word occurs twice, in line 1 of .* and in line 5 of "),
        (b"car\nroad, sky\n", "line 2 of .*classes.txt has a comma"),
        (b"car\nroad@high\n", "line 2 of .*classes.txt has a threshold that is none; an entry may"),
        (b"# nothing\n\n", "classes.txt has no class"),
        (b"car\n\xff\n", "is not UTF-8 text at byte 4; save it as UTF-8"),
    ],
)
def test_bad_file_lines_are_named(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    path.write_bytes(content)
    with pytest.raises(BadInputError, match=message):
        parse_vocabulary(path)


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("classes.txt", "class file 'classes.txt' does not exist; check the path"),
        ("lists/street", "class file 'lists/street' does not exist"),
        ("/", "class file '/' cannot be read: it is a folder"),
        ("/dev/zero", "class file '/dev/zero' cannot be read: it is a device"),
        ("a\0b.txt", "cannot be read: .*null"),
    ],
)
def test_a_typed_file_that_is_none_is_named(
    typed: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInputError, match=message):
        typed_vocabulary(typed)


def test_a_typed_pipe_is_read_to_its_end(tmp_path: Path) -> None:
    """As in --classes <(generate)."""
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_text, args=("car\nroad\n",))
    writer.start()
    assert typed_vocabulary(str(tmp_path / "pipe")).names == ("car", "road")
    writer.join()


def test_as_many_classes_as_ids_and_no_more() -> None:
    names = [f"class {index}" for index in range(MAX_CLASSES + 1)]
    assert parse_vocabulary(names[:-1]).slot_ids[-1] == MAX_CLASSES - 1
    with pytest.raises(
        BadInputError, match=f"has {MAX_CLASSES + 1} classes, at most {MAX_CLASSES}"
    ):
        parse_vocabulary(names)


def test_records_check_themselves() -> None:
    with pytest.raises(BadInputError, match="'a' occurs twice, in entry 1 and in entry 2"):
        Vocabulary((Entry("a"), Entry("b", ("a",))))
    with pytest.raises(BadInputError, match="has an empty word"):
        Entry("car", ("",))
    with pytest.raises(BadInputError, match=r"threshold 1.5 of 'car' must lie in \[0, 1\]"):
        Entry("car", threshold=1.5)


WORD = st.text(st.characters(categories=("L", "N", "So")), min_size=1, max_size=6)


@given(st.lists(WORD, min_size=1, max_size=8, unique_by=str.lower), st.data())
def test_slots_group_words_by_entry(words: list[str], data: st.DataObject) -> None:
    gaps = len(words) - 1
    separators = data.draw(st.lists(st.sampled_from(",|"), min_size=gaps, max_size=gaps))
    joined = words[0] + "".join(map("".join, zip(separators, words[1:], strict=True)))
    vocabulary = parse_vocabulary(joined)
    assert vocabulary.words == tuple(words)
    commas = [separator == "," for separator in separators]
    assert vocabulary.slot_ids == tuple(sum(commas[:slot]) for slot in range(len(words)))


@given(st.text(max_size=30))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        assert len(parse_vocabulary(text)) >= 1
    except BadInputError as error:
        assert str(error)
