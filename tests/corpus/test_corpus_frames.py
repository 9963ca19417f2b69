"""Frames of every kind of source by their numbers, and what stands for those that cannot be read."""

from __future__ import annotations

from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet
import pytest
from corpus_helpers import png, values

from dedos_deploy.corpus import frames
from dedos_deploy.corpus.frames import FrameReader
from dedos_deploy.errors import BadInputError, SourceError


def test_a_video_is_read_on_from_where_it_was_left(
    video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    monkeypatch.setattr(
        frames,
        "open_source",
        lambda path, open_it=frames.open_source: opened.append(path) or open_it(path),
    )
    with FrameReader(str(video)) as reader:
        assert values(reader.frames(0, 10)) == {n: 8 * n for n in range(10)}
        assert values(reader.frames(10, 12)) == {10: 80, 11: 88}
        assert reader.end is None and len(opened) == 1
        assert [item.time_s for item in reader.frames(20, 22)] == [2.0, 2.1]
        assert values(reader.frames(29, None)) == {29: 232} and reader.end == 30
        assert len(opened) == 1
        assert values(reader.frames(3, 4)) == {3: 24} and len(opened) == 2
        assert values(reader.frames(40, 50)) == {} and reader.end == 30


def test_pictures_rows_and_samples_are_numbered_and_what_is_wrong_takes_its_place(
    pictures: Path, rows: Path, samples: Path
) -> None:
    with FrameReader(str(pictures / "2.png")) as reader:
        assert values(reader.frames(0, 1)) == {0: 2} and reader.end == 1
    damaged = values(FrameReader(str(pictures / "10.png")).frames(0, 1))
    assert "10.png' is damaged" in damaged[0]
    assert "cannot be read" in values(FrameReader(str(pictures / "3.png")).frames(0, 1))[0]
    found = values(FrameReader(str(rows)).frames(1, 6))
    assert "row 2 of '" in found.pop(2) and found == {1: 1, 3: 3, 4: 4, 5: 5}
    found = values(FrameReader(str(samples)).frames(0, None))
    assert "'1.png' in '" in found.pop(1) and found == {0: 0, 2: 2, 3: 3}


def test_every_kind_is_read_from_where_fsspec_reaches(
    pictures: Path, video: Path, rows: Path, samples: Path
) -> None:
    files = fsspec.filesystem("memory")
    for path, (start, expected) in {
        pictures / "2.png": (0, 2),
        video: (4, 32),
        rows: (6, 6),
        samples: (3, 3),
    }.items():
        files.put(str(path), f"/kinds/{path.name}")
        with FrameReader(f"memory://kinds/{path.name}") as reader:
            assert values(reader.frames(start, None))[start] == expected
    with pytest.raises(BadInputError, match=r"memory://kinds/no.tar' cannot be read \(.*network"):
        list(FrameReader("memory://kinds/no.tar").frames(0, 1))


def test_a_column_of_pictures_is_found_or_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "two.parquet"
    pyarrow.parquet.write_table(pa.table({"left": [png(1)], "right": [png(2)]}), path)
    with pytest.raises(BadInputError, match=r"several columns .*\(left, right\); name one, as in"):
        list(FrameReader(str(path)).frames(0, 1))
    assert values(FrameReader(f"{path}?column=right").frames(0, 1)) == {0: 2}
    with pytest.raises(
        BadInputError, match="no column 'up' of pictures' bytes; it has left, right"
    ):
        list(FrameReader(f"{path}?column=up").frames(0, 1))
    with pytest.raises(BadInputError, match="unknown setting 'colum', did you mean 'column'"):
        list(FrameReader(f"{path}?colum=right").frames(0, 1))
    pyarrow.parquet.write_table(pa.table({"n": [1]}), path)
    with pytest.raises(BadInputError, match="no column of pictures' bytes"):
        list(FrameReader(str(path)).frames(0, 1))


@pytest.mark.parametrize("name", ["a.parquet", "a.tar", "a.mp4"])
def test_a_file_that_is_not_what_it_is_called_is_one_error(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"not at all" * 100)
    with pytest.raises((BadInputError, SourceError), match=name):
        list(FrameReader(str(tmp_path / name)).frames(0, 1))
