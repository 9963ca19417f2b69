"""Records of an evaluation: exact, appended, resumed after a kill at any byte, merged."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dedos_deploy.errors import BadInputError
from dedos_deploy.evaluation.records import (
    ImageRecord,
    RecordWriter,
    cells_of,
    merged,
    read_records,
)

HEADER = {"predictor": "p", "data": "d", "classes": ["a", "b"], "images": 3}


def record(name: str, seed: int = 0) -> ImageRecord:
    random = np.random.default_rng(seed)
    matrix = random.integers(0, 3, (2, 3)) * 10**12
    return ImageRecord(name, (7, 9), cells_of(matrix), ((1, 3, 5),), 0.25)


def test_counts_survive_exactly() -> None:
    random = np.random.default_rng(1)
    matrix = random.integers(0, 2**53, (5, 6)) * random.integers(0, 2, (5, 6))
    one = ImageRecord("ä b", (1, 2), cells_of(matrix), (), 1.5)
    again = ImageRecord.from_json(one.to_json())
    assert again == one and np.array_equal(again.matrix(5), matrix)
    assert ImageRecord("x", (1, 1), (), (), 0.0).skipped and not one.skipped


def test_a_file_cut_at_any_byte_is_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "images.jsonl"
    with RecordWriter(path, HEADER, resume=False) as writer:
        for index in range(3):
            writer.add(record(f"i{index}", index))
    whole = path.read_bytes()
    header_end = whole.index(b"\n") + 1
    for cut in range(header_end, len(whole) + 1, 7):
        path.write_bytes(whole[:cut])
        with RecordWriter(path, HEADER, resume=True) as writer:
            done = len(writer.done)
            assert done == whole[:cut].count(b"\n") - 1
            for index in range(done, 3):
                writer.add(record(f"i{index}", index))
        assert path.read_bytes() == whole


def test_another_evaluation_is_not_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "out" / "images.jsonl"
    with RecordWriter(path, HEADER, resume=True):
        pass
    before = path.read_bytes()
    with pytest.raises(BadInputError, match="already holds an evaluation; add --resume"):
        RecordWriter(path, HEADER, resume=False)
    with pytest.raises(BadInputError, match="has data 'd', not 'e'; choose another --output"):
        RecordWriter(path, {**HEADER, "data": "e"}, resume=True)
    assert path.read_bytes() == before
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInputError, match=r"cannot write .* choose another --output"):
        RecordWriter(tmp_path / "file" / "images.jsonl", HEADER, resume=False)


def test_a_full_disk_is_said_once(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    with RecordWriter(tmp_path / "images.jsonl", HEADER, resume=False) as writer:
        writer._file.close()
        writer._file = full.open("wb", buffering=0)
        with pytest.raises(BadInputError, match=r"No space left.* go on with --resume"):
            writer.add(record("i"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no record of an evaluation of this version"),
        ('{"format": "other"}\n', "no record of an evaluation of this version"),
        ('{"format": "dedos-eval-1"}\n{"name": 3}\n', "line 2 of .* is damaged"),
        ('{"format": "dedos-eval-1"}\n[]\n', "line 2 of .* is damaged"),
    ],
)
def test_damage_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "images.jsonl"
    path.write_text(text)
    with pytest.raises(BadInputError, match=message):
        read_records(path)
    with pytest.raises(BadInputError, match=r"nothing.* is no record"):
        read_records(tmp_path / "nothing")


def test_parts_merge_and_mistakes_are_refused() -> None:
    head = {"format": "dedos-eval-1", **HEADER}
    parts = [(head, [record("c"), record("a")]), (json.loads(json.dumps(head)), [record("b")])]
    assert [one.name for one in merged(parts)] == ["a", "b", "c"]
    with pytest.raises(BadInputError, match="image 'a' was evaluated twice"):
        merged([*parts, (head, [record("a")])])
    with pytest.raises(BadInputError, match="cannot be merged: data differ"):
        merged([parts[0], ({**head, "data": "x"}, [record("b")])])
