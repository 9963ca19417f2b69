"""A data set as it is written and read: every row once, damage in a sentence."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pyarrow")

import cv2

from dedos_deploy.corpus import CorpusClass, CorpusInfo, LabelledFrame, open_corpus
from dedos_deploy.corpus.records import INFO_FILE, info_from_json, part_name, write_part
from dedos_deploy.errors import BadInputError, UnsupportedVersionError

INFO = CorpusInfo(
    format_version=1,
    bundle="demo",
    bundle_sha256="b" * 64,
    words_sha256="c" * 64,
    classes=(CorpusClass(0, "road", "#808080", "road"), CorpusClass(1, "car", "#ff0000", "car")),
    none_id=255,
    settings={"background": "threshold"},
)


def frame(source: Path, number: int = 0) -> LabelledFrame:
    label_map = np.full((6, 8), 255, np.uint8)
    label_map[:2] = number % 2
    return LabelledFrame(
        key=f"{source}#{number}",
        source=str(source),
        frame=number,
        time_s=None,
        width=8,
        height=6,
        label_map_png=cv2.imencode(".png", label_map)[1].tobytes(),
        confidence_png=None,
        margin=0.25,
        class_ids=(number % 2,),
        counts=(16,),
        bundle_sha256=INFO.bundle_sha256,
        words_sha256=INFO.words_sha256,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two parts of 300 and 2 frames."""
    (tmp_path / "set/labels").mkdir(parents=True)
    (tmp_path / "set" / INFO_FILE).write_text(INFO.to_json())
    source = tmp_path / "a.png"
    cv2.imwrite(str(source), np.full((6, 8, 3), 7, np.uint8))
    write_part(tmp_path / "set" / part_name(0), 0, [frame(source, i) for i in range(300)])
    write_part(tmp_path / "set" / part_name(1), 1, [frame(source, i) for i in (300, 301)])
    return tmp_path / "set"


def test_rows_come_back_as_they_were_written(folder: Path) -> None:
    with open_corpus(folder) as corpus:
        assert corpus.info == INFO and corpus.info.names == {0: "road", 1: "car"}
        rows = list(corpus)
        assert [row.frame for row in rows] == list(range(302)) and len(corpus) == 302
        expected = frame(folder.parent / "a.png", 1)
        assert {**vars(rows[1])} == vars(expected)
        assert rows[1].label_map.dtype == np.uint8 and (rows[1].label_map[:2] == 1).all()
        assert (rows[1].label_map[2:] == 255).all() and rows[1].confidence is None


def test_a_part_that_is_there_twice_counts_once(folder: Path) -> None:
    shutil.copy(folder / part_name(0), folder / "labels/part-000000-again.parquet")
    shutil.copy(folder / part_name(1), folder / "labels/zzz.parquet")
    keys = [row.key for row in open_corpus(folder)]
    assert len(keys) == len(set(keys)) == 302


def test_the_picture_of_a_row_is_read_from_its_source_again(folder: Path) -> None:
    with open_corpus(folder) as corpus:
        row = next(iter(corpus))
        assert (corpus.picture(row) == 7).all()
        cv2.imwrite(row.source, np.zeros((9, 8, 3), np.uint8))
        with pytest.raises(
            BadInputError, match="is 8x9 now, and was 8x6 .*; the source was replaced"
        ):
            corpus.picture(row)


def test_what_is_no_data_set_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="holds no data set of labels"):
        open_corpus(tmp_path / "nothing")
    (folder / part_name(1)).write_bytes(b"PAR1 and no more")
    with pytest.raises(
        BadInputError, match=r"part-000001.parquet' is damaged .*label the corpus again"
    ):
        list(open_corpus(folder))
    text = INFO.to_json()
    with pytest.raises(
        UnsupportedVersionError, match="it: field 'format_version' is 2, but .* install a newer"
    ):
        info_from_json(text.replace('"format_version": 1', '"format_version": 2'), "it")
    # None is newer than these, which are no versions.
    for wrong in ("0", "true", '"2"', "1.5"):
        with pytest.raises(BadInputError, match="field 'format_version' must be one of 1"):
            info_from_json(text.replace('"format_version": 1', f'"format_version": {wrong}'), "it")
    with pytest.raises(BadInputError, match="'none_id' is missing"):
        info_from_json(text.replace('"none_id": 255,', ""), "it")
    with pytest.raises(BadInputError, match="two classes of the data set have one name"):
        info_from_json(text.replace('"name": "car"', '"name": "road"'), "it")
    for wrong in ('"id": 65536', '"id": -1'):
        with pytest.raises(
            BadInputError, match=r"the id (65536|-1), and label maps hold 0 to 65535"
        ):
            info_from_json(text.replace('"id": 0', wrong), "it")


def test_a_damaged_label_map_is_named_by_its_key(folder: Path) -> None:
    row = next(iter(open_corpus(folder)))
    broken = replace(row, label_map_png=row.label_map_png[:20])
    with pytest.raises(BadInputError, match="the label map of '.*a.png#0' is damaged"):
        _ = broken.label_map
    with pytest.raises(BadInputError, match="no grey PNG of 9x6"):
        _ = replace(row, width=9).label_map


def test_a_data_set_lies_wherever_fsspec_reaches(folder: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    fsspec.filesystem("memory").put(str(folder), "/data/set", recursive=True)
    assert [row.frame for row in open_corpus("memory://data/set")] == list(range(302))
