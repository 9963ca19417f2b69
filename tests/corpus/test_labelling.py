"""A shard in, its part out: rows, and a note of all that could not be labelled."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from corpus_helpers import picture

from dedos_deploy.bundle import MODEL, Bundle
from dedos_deploy.bundle.edit import set_confidence_curves
from dedos_deploy.confidence_curves import ConfidenceCurves
from dedos_deploy.corpus import dataset, folders, open_corpus
from dedos_deploy.corpus.beginning import Wanted, begin, describe
from dedos_deploy.corpus.folders import folder_at
from dedos_deploy.corpus.labelling import Job, ShardLabeller, StoppedError, margin_of
from dedos_deploy.corpus.manifest import Piece
from dedos_deploy.corpus.records import INFO_FILE, part_name
from dedos_deploy.corpus.verify import verify_corpus
from dedos_deploy.errors import BadInputError, SinkError
from dedos_deploy.runtime import Segmenter
from dedos_deploy.vocabulary import parse_vocabulary

Jobs = Callable[..., Job]


def test_a_shard_of_every_kind_of_source_becomes_a_part(
    job: Jobs, pictures: Path, video: Path, rows: Path, samples: Path
) -> None:
    wanted = Wanted((str(pictures), str(video), str(rows), str(samples)), shard_frames=25)
    begun = begin(one := job("blue,green|lamp@0.4#102030", confidence=True), wanted)
    begun.write()
    with ShardLabeller(one) as labeller:
        for shard in range(len(begun.manifest)):
            report = labeller.label(shard, begun.manifest.pieces(shard))
            assert report.frames or report.errors
    with open_corpus(one.output) as corpus:
        found = {row.key: row for row in corpus}
        assert len(found) == 4 + 30 + 6 + 3
        for row in found.values():
            assert (corpus.picture(row).shape[:2]) == row.label_map.shape == (24, 32)
            assert (row.bundle_sha256, row.words_sha256) == (one.bundle_sha256, one.words_sha256)
        row = found[f"{video}#12"]
        assert row.time_s == pytest.approx(1.2) and (corpus.picture(row) == 96).all()
        assert corpus.info.classes[1].entry == "green|lamp@0.4#102030"
        assert corpus.info.classes[1].colour == "#102030"
    with Segmenter.load(one.bundle, classes=one.vocabulary, threads=1) as segmenter:
        result = segmenter.segment(picture(96))
    assert (row.label_map == result.label_map).all()
    assert row.confidence is not None and (row.confidence == result.confidence).all()
    errors = begun.errors_of(begun.shards_done())
    assert [(Path(e["source"]).name, e["frame"]) for e in errors] == [
        ("10.png", 0),
        ("rows.parquet", 2),
        ("shard-000.tar", 1),
    ]
    verdict = verify_corpus(one.output)
    assert (verdict.problems, verdict.frames, verdict.unreadable) == ([], 43, 3)


def test_one_frame_in_so_many_and_a_video_that_ends_early_or_fails(
    job: Jobs, video: Path, tmp_path: Path
) -> None:
    cut, gone = tmp_path / "cut.avi", str(tmp_path / "gone.mp4")
    cut.write_bytes(video.read_bytes())
    pieces = [
        Piece(str(video), 5, 26, 5, 5),
        Piece(str(cut), 28, None, 1, 10),
        Piece(gone, 0, 4, 1, 4),
    ]
    with ShardLabeller(job()) as labeller:
        report = labeller.label(3, pieces)
    (error,) = report.errors
    assert (error["source"], error["frame"], error["stop"]) == (gone, 0, 4)
    assert "does not exist" in error["error"] and report.frames == 7
    corpus = dataset.Corpus(folder_at(job().output), describe(job(), Wanted(("x",))))
    assert [row.frame for row in corpus] == [5, 10, 15, 20, 25, 28, 29]
    assert corpus.notes(part_name(3)).ends == {str(cut): 30}


def test_a_shard_that_is_dropped_leaves_nothing(job: Jobs, video: Path, tmp_path: Path) -> None:
    asked = iter([False, False, True])
    with ShardLabeller(job()) as labeller:
        with pytest.raises(StoppedError):
            labeller.label(0, [Piece(str(video), 0, 30)], is_stopped=lambda: next(asked))
        assert list((tmp_path / "out/labels").iterdir()) == []
        assert labeller.label(0, [Piece(str(video), 0, 2)]).frames == 2


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
def test_a_part_that_cannot_be_written_is_one_sentence(
    number: int, job: Jobs, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, "so it is")

    with ShardLabeller(job()) as labeller:
        monkeypatch.setattr(folders.os, "fsync", refuse)
        with pytest.raises(SinkError, match=r"part-000000.parquet' cannot be written \(so it is\)"):
            labeller.label(0, [Piece(str(video), 0, 1)])
        assert list((tmp_path / "out/labels").iterdir()) == []


def test_of_a_calibrated_bundle_margins_are_of_scores_and_pictures_of_their_worth(
    job: Jobs, video: Path, tmp_path: Path
) -> None:
    plain = job(confidence=True)
    path = str(tmp_path / "calibrated.dedos")
    with Bundle.open(plain.bundle) as opened:
        graph = opened.manifest.files[MODEL]
    halves = {"blue": np.full(256, 128, np.uint8), "green": np.full(256, 130, np.uint8)}
    curves = ConfidenceCurves(graph, np.full(256, 120, np.uint8), halves)
    set_confidence_curves(plain.bundle, curves, dest=path)
    with Bundle.open(path) as opened:
        calibrated = replace(plain, bundle=path, bundle_sha256=opened.sha256)
    found = []
    for number, one in enumerate((plain, calibrated)):
        one = replace(one, output=str(tmp_path / f"out{number}"))
        with ShardLabeller(one) as labeller:
            labeller.label(0, [Piece(str(video), 0, 3)])
        found.append(list(dataset.Corpus(folder_at(one.output), describe(one, Wanted(("x",))))))
    for scores, worth in zip(*found, strict=True):
        assert scores.margin == worth.margin and (scores.label_map == worth.label_map).all()
        assert worth.confidence is not None
        assert set(np.unique(worth.confidence)) <= {120, 128, 130}
    with Segmenter.load(path, classes=plain.vocabulary, threads=1) as segmenter:
        result = segmenter.segment(picture(0))
    with ShardLabeller(replace(calibrated, output=str(tmp_path / "still"))) as labeller:
        labeller.label(0, [Piece(str(video), 0, 1)])
    (row,) = dataset.Corpus(
        folder_at(str(tmp_path / "still")), describe(calibrated, Wanted(("x",)))
    )
    assert row.confidence is not None and (row.confidence == result.confidence).all()


def test_the_margin_is_the_mean_distance_from_the_threshold() -> None:
    result = _result(
        np.array([[0, 1], [255, 0]], np.uint8), np.array([[200, 60], [10, 100]], np.uint8)
    )
    least = np.full(256, 50, np.uint8)
    least[1] = 100
    assert margin_of(result, least) == pytest.approx((150 + 40 + 40 + 50) / 4 / 255)
    wide = replace(result, label_map=np.array([[0, 1], [65535, 0]], np.uint16))
    least = np.full(65536, 50, np.uint8)
    assert margin_of(wide, least) == pytest.approx((150 + 10 + 40 + 50) / 4 / 255)


def _result(label_map: np.ndarray, confidence: np.ndarray) -> object:
    from dedos_deploy.runtime.segmentation import Segmentation

    counts = np.array([2, 1], np.int64)
    return Segmentation(label_map, confidence, ("a", "b"), (0, 1), counts, 255, 1, 0.0, {})


def test_another_bundle_other_words_and_other_options_are_refused(job: Jobs, video: Path) -> None:
    wanted = Wanted((str(video),), every=10)
    begin(job(), wanted).write()
    assert begin(job(), wanted).new is None
    assert begin(job(), replace(wanted, workers=7)).new is None
    for other, options, message in (
        (replace(job(), bundle_sha256="0" * 64), wanted, r"another bundle \('.*tiny', "),
        (job("blue,red"), wanted, r"other words \(blue, green\)"),
        (job("blue,green|lamp"), wanted, "other words"),
        (job(confidence=True), wanted, r"other confidence \(false\)"),
        (job(), replace(wanted, every=2), r"other every \(10\)"),
        (job(), replace(wanted, inputs=("scene:hall",)), r"other inputs \(\[.*clip.avi\"\]\)"),
    ):
        with pytest.raises(BadInputError, match=message + ".*another --output for a new one"):
            begin(other, options)
    tuned = parse_vocabulary("blue,green")
    assert replace(job(), vocabulary=tuned).words_sha256 == job().words_sha256


def test_a_bundle_that_is_another_one_elsewhere_is_refused(job: Jobs) -> None:
    with pytest.raises(BadInputError, match=r"is another bundle here .*give all machines the same"):
        ShardLabeller(replace(job(), bundle_sha256="0" * 64))


def test_nothing_is_written_before_an_engine_runs(job: Jobs, video: Path, tmp_path: Path) -> None:
    begin(job(), Wanted((str(video),)))
    assert not (tmp_path / "out").exists()
    (tmp_path / "out/labels").mkdir(parents=True)
    (tmp_path / "out/labels/mine.png").write_bytes(b"")
    with pytest.raises(BadInputError, match=rf"has a folder labels with files and no {INFO_FILE}"):
        begin(job(), Wanted((str(video),)))
    with pytest.raises(BadInputError, match="no frame that can be labelled: .*broken.mp4"):
        (tmp_path / "broken.mp4").write_bytes(b"no")
        begin(replace(job(), output=str(tmp_path / "x")), Wanted((str(tmp_path / "broken.mp4"),)))
