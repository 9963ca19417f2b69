"""Sinks: what they write can be read back, and what cannot be written is said before anything runs."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from datetime import datetime, timezone
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from runtime_fakes import result_for

from dedos_deploy.errors import BadInputError, SinkError
from dedos_deploy.runtime import Frame, OverlayPainter, SinkOptions, open_sink
from dedos_deploy.runtime.segmentation import Segmentation
from dedos_deploy.runtime.sinks.legend import UNLABELLED, legend_lines
from dedos_deploy.runtime.sinks.palette import word_colour_bgr


def frame_of(
    index: int, size_hw: tuple[int, int] = (48, 64), *, timestamp_s: float | None = None
) -> Frame:
    picture = np.full((*size_hw, 3), 100, dtype=np.uint8)
    time_s = index / 20 if timestamp_s is None else timestamp_s
    return Frame(picture, index, time_s, "test", f"{index:06d}", media_s=index / 20)


def write_all(uri: str, frames: list[Frame], options: SinkOptions | None = None) -> str | None:
    with open_sink(uri, options) as sink:
        for frame in frames:
            sink.write(frame, result_for(frame.frame_bgr, frame.timestamp_s))
    return sink.written


def read_video(path: Path) -> tuple[list[NDArray[np.uint8]], float]:
    capture = cv2.VideoCapture(str(path))
    frames = []
    while (read := capture.read())[0]:
        frames.append(read[1])
    return frames, capture.get(cv2.CAP_PROP_FPS)


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if ".tmp" in path.name]


@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".avi", ".mkv"])
@pytest.mark.parametrize("size_hw", [(48, 64), (47, 63)])
def test_video_has_every_overlay_at_the_source_rate(
    tmp_path: Path, suffix: str, size_hw: tuple[int, int]
) -> None:
    path = tmp_path / f"out{suffix}"
    frames = [frame_of(index, size_hw) for index in range(7)]
    written = write_all(str(path), frames, SinkOptions(fps=20.0))
    pictures, fps = read_video(path)
    assert (len(pictures), fps) == (7, pytest.approx(20.0))
    assert written == f"{path} (7 frames)"
    assert leftovers(tmp_path) == []
    height, width = size_hw
    assert pictures[0].shape == (height + height % 2, width + width % 2, 3)
    # The right half is unlabelled and stays grey, the left takes half of its class colour.
    right, left = pictures[3][-4, -4].astype(int), pictures[3][-4, 4].astype(int)
    expected = (np.array(word_colour_bgr("left")) + 100) / 2
    assert np.abs(right - 100).max() <= 12
    assert np.abs(left - expected).max() <= 25


def test_a_video_of_one_pixel(tmp_path: Path) -> None:
    write_all(str(tmp_path / "out.mp4"), [frame_of(0, (1, 1))])
    (picture,), _ = read_video(tmp_path / "out.mp4")
    assert picture.shape == (2, 2, 3)


def test_a_video_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    sink = open_sink(str(path))
    sink.write(frame_of(0), result_for(frame_of(0).frame_bgr))
    assert not path.exists()
    sink.close()
    sink.close()
    assert len(read_video(path)[0]) == 1


def test_nothing_is_left_when_no_frame_came(tmp_path: Path) -> None:
    for uri in ("out.mp4", "out.png"):
        with open_sink(str(tmp_path / uri)) as sink:
            pass
        assert sink.written is None
    assert list(tmp_path.iterdir()) == []


def test_frames_of_another_size_are_fitted_into_the_first(tmp_path: Path) -> None:
    path = tmp_path / "out.avi"
    write_all(str(path), [frame_of(0), frame_of(1, (96, 64)), frame_of(2, (20, 200))])
    pictures, _ = read_video(path)
    assert [picture.shape for picture in pictures] == [(48, 64, 3)] * 3
    assert pictures[1][24, 32].min() > 60
    assert pictures[1][24, 4].max() < 40


def test_live_video_lasts_as_long_as_what_it_shows(tmp_path: Path) -> None:
    path = tmp_path / "out.avi"
    times_s = [100.0, 100.1, 101.1, 101.15, 102.0]
    frames = [frame_of(i, timestamp_s=time_s) for i, time_s in enumerate(times_s)]
    write_all(str(path), frames, SinkOptions(fps=30.0, live=True))
    pictures, fps = read_video(path)
    assert fps == pytest.approx(10.0)
    assert len(pictures) == 1 + round(2.0 * fps)


def test_a_long_pause_of_a_live_source_is_shortened(tmp_path: Path) -> None:
    path = tmp_path / "out.avi"
    frames = [frame_of(i, timestamp_s=time_s) for i, time_s in enumerate([0.0, 3600.0, 3600.1])]
    write_all(str(path), frames, SinkOptions(live=True))
    assert len(read_video(path)[0]) == 1 + 100 + 1


def test_masks_are_the_label_maps_and_classes_explain_them(tmp_path: Path) -> None:
    folder = tmp_path / "masks"
    with open_sink(f"masks:{folder}") as sink:
        frame = frame_of(0)
        sink.write(frame, result_for(frame.frame_bgr))
        wide = result_for(frame.frame_bgr, classes=("left", "new"), version=2)
        label_map = np.where(wide.label_map == 255, 65535, 300).astype(np.uint16)
        replaced = Segmentation(**{**vars(wide), "label_map": label_map, "none_id": 65535})
        sink.write(frame_of(1), replaced)
    assert sink.written == f"{folder} (2 label maps)"
    first = cv2.imread(str(folder / "000000.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(first, result_for(frame.frame_bgr).label_map)
    second = cv2.imread(str(folder / "000001.png"), cv2.IMREAD_UNCHANGED)
    assert second.dtype == np.uint16
    np.testing.assert_array_equal(second, label_map)
    classes = json.loads((folder / "classes.json").read_text())
    assert (folder / "classes.txt").read_text().splitlines() == classes["classes"]
    assert classes == {"classes": ["left", "new"], "none_id": 65535}


def test_every_mask_is_explained_by_the_classes_beside_it(tmp_path: Path) -> None:
    """Also where a session of many names gave an id another meaning, or its list became shorter."""
    folder = tmp_path / "masks"
    lists = [("a",), ("a", "b"), ("a",), ("a", "c"), ("a", "c", "d"), ("e", "c", "d"), ("e",)]
    frames = [frame_of(index) for index in range(len(lists))]
    with open_sink(f"masks:{folder}") as sink:
        for version, (frame, names) in enumerate(zip(frames, lists, strict=True), 1):
            sink.write(frame, result_for(frame.frame_bgr, classes=names, version=version))
    explained = {}
    for path in folder.rglob("*.png"):
        names = json.loads((path.parent / "classes.json").read_text())["classes"]
        asked = lists[int(path.stem)]
        assert tuple(names[: len(asked)]) == asked
        explained[path.stem] = path.parent.name
    homes = [explained[frame.name] for frame in frames]
    assert homes == ["masks"] * 3 + ["ids-2"] * 2 + ["ids-3"] * 2
    with pytest.raises(SinkError, match="is not empty"):
        open_sink(f"masks:{folder}")


@pytest.mark.parametrize("name", ["../up", "a/b", "a\\b", "", "nul\0"])
@pytest.mark.parametrize("kind", ["masks", "overlays"])
def test_a_frame_name_that_is_a_path_writes_nothing(tmp_path: Path, kind: str, name: str) -> None:
    frame = dataclasses.replace(frame_of(0), name=name)
    with (
        open_sink(f"{kind}:{tmp_path / 'out'}") as sink,
        pytest.raises(SinkError, match="cannot be the name of a file; give frames names without"),
    ):
        sink.write(frame, result_for(frame.frame_bgr))
    written = {path.name for path in tmp_path.rglob("*")}
    assert written in ({"out"}, {"out", "classes.json", "classes.txt"})


def test_json_lines_are_complete_while_the_file_grows(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with open_sink(str(path)) as sink:
        for index in range(3):
            sink.write(frame_of(index), result_for(frame_of(index).frame_bgr, index / 20))
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            assert [line["frame_id"] for line in lines] == list(range(index + 1))
    captured = datetime.fromisoformat(lines[2].pop("captured_at"))
    age = datetime.now(timezone.utc) - captured
    # frame_of's clock starts with the machine's: the third frame is that plus 0.1 s.
    assert age.total_seconds() == pytest.approx(time.monotonic() - 0.1, abs=1.0)
    assert lines[2] == {
        "source": "test",
        "frame_id": 2,
        "name": "000002",
        "picture": None,
        "timestamp_s": 0.1,
        "media_s": 0.1,
        "vocabulary_version": 1,
        "coverage": {"left": 0.5},
        "unlabelled": 0.5,
        "latency_ms": {"pre": 1.0, "engine": 2.0, "post": 3.0, "total": 6.0},
    }


def test_pictures(tmp_path: Path) -> None:
    frames = [frame_of(0), frame_of(1, (30, 40))]
    assert write_all(str(tmp_path / "last.png"), frames) == str(tmp_path / "last.png")
    picture = cv2.imread(str(tmp_path / "last.png"))
    painted = OverlayPainter().paint(frames[1].frame_bgr, result_for(frames[1].frame_bgr))
    np.testing.assert_array_equal(picture, painted)
    write_all(f"overlays:{tmp_path / 'all'}", frames)
    assert sorted(os.listdir(tmp_path / "all")) == ["000000.jpg", "000001.jpg"]


@pytest.mark.parametrize("name", ["out.mp4", "out.avi", "out.png", "out.jsonl"])
def test_existing_files_are_kept_unless_told_otherwise(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text("precious")
    with pytest.raises(SinkError, match="exists; allow it to be replaced with --overwrite"):
        open_sink(str(path))
    assert path.read_text() == "precious"
    write_all(str(path), [frame_of(0)], SinkOptions(overwrite=True))
    assert path.read_bytes() != b"precious"
    assert leftovers(tmp_path) == []


def test_a_video_that_was_there_stays_when_the_new_one_gets_no_frame(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    path.write_text("precious")
    open_sink(str(path), SinkOptions(overwrite=True)).close()
    assert path.read_text() == "precious"


@pytest.mark.parametrize("kind", ["masks", "overlays"])
def test_a_folder_with_files_is_refused_unless_told_otherwise(tmp_path: Path, kind: str) -> None:
    (tmp_path / "mine.png").write_text("precious")
    with pytest.raises(SinkError, match="is not empty; allow files in it to be replaced"):
        open_sink(f"{kind}:{tmp_path}")
    write_all(f"{kind}:{tmp_path}", [frame_of(0)], SinkOptions(overwrite=True))
    assert (tmp_path / "mine.png").read_text() == "precious"


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("{}/missing/out.mp4", "out.mp4' cannot be written.*No such file or directory"),
        ("{}/missing/out.jsonl", "cannot be written"),
        ("{}/missing/out.png", "cannot be written"),
        ("masks:{}/missing/masks", "cannot be written"),
        ("masks:{}/file", "is a file; choose another name"),
        ("masks:", "names no folder; write masks:FOLDER"),
        ("{}/folder.mp4", "is a folder; name a file in it"),
        ("{}/out.gif", "unknown output.*an output is a video"),
        ("screen", "unknown output 'screen'"),
        ("/proc/out.mp4", "cannot be written"),
    ],
)
def test_unwritable_outputs_are_refused_on_opening(tmp_path: Path, uri: str, message: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(SinkError, match=message):
        open_sink(uri.format(tmp_path))
    assert leftovers(tmp_path) == []


def test_a_folder_removed_meanwhile_is_an_error_that_names_it(tmp_path: Path) -> None:
    folder = tmp_path / "masks"
    with open_sink(f"masks:{folder}") as sink:
        folder.rmdir()
        with pytest.raises(SinkError, match="masks/classes.json' cannot be written"):
            sink.write(frame_of(0), result_for(frame_of(0).frame_bgr))


def test_a_video_that_lost_frames_is_removed_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenCV says nothing when the disk is full; here the file is cut behind its back."""
    path = tmp_path / "out.avi"
    sink = open_sink(str(path))
    for index in range(6):
        sink.write(frame_of(index), result_for(frame_of(index).frame_bgr))
    writer = sink._writer  # type: ignore[attr-defined]

    class FullDisk:
        def release(self) -> None:
            writer.release()
            (temporary,) = tmp_path.iterdir()
            temporary.write_bytes(b"")

    monkeypatch.setattr(sink, "_writer", FullDisk())
    with pytest.raises(SinkError, match="holds 0 of 6 frames and was removed; check the free"):
        sink.close()
    assert list(tmp_path.iterdir()) == []


def test_a_window_without_a_display_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SinkError, match="needs a display.*--output overlay.mp4"):
        open_sink("window")


def test_null_takes_everything() -> None:
    assert write_all("null", [frame_of(0)]) is None


@pytest.mark.parametrize("opacity", [0.0, 0.25, 1.0])
def test_tint_mixes_labelled_pixels_only(opacity: float) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    result = result_for(frame)
    painted = OverlayPainter(opacity).paint(frame, result)
    np.testing.assert_array_equal(painted[:, 150:], frame[:, 150:])
    below_legend = painted[100:, :150].astype(float)
    expected = (1 - opacity) * frame[100:, :150] + opacity * np.array(word_colour_bgr("left"))
    assert np.abs(below_legend - expected).max() <= 1.0


def test_opacity_must_be_a_fraction() -> None:
    with pytest.raises(BadInputError, match=r"opacity must lie in \[0, 1\], not 2"):
        OverlayPainter(2)


def test_a_legend_has_all_words_in_their_order_and_greys_those_that_do_not_occur() -> None:
    frame = np.zeros((10, 10, 3), np.uint8)
    base = result_for(frame, classes=("a", "b", "straße", "d"))
    result = Segmentation(**{**vars(base), "counts": np.array([5, 0, 50, 45])})
    lines = legend_lines(result, most=9)
    assert [line.text for line in lines] == ["a", "b", "straße", "d", UNLABELLED]
    assert [line.present for line in lines] == [True, False, True, True, False]
    assert lines[2].colour == word_colour_bgr("straße")
    texts = [line.text for line in legend_lines(result, most=3)]
    assert texts == ["a", "straße", "+ 3 more"]
    # There is room for one that does not occur.
    texts = [line.text for line in legend_lines(result, most=4)]
    assert texts == ["a", "straße", "d", "+ 2 more"]
    assert legend_lines(result, most=0) == []


@pytest.mark.parametrize("size_hw", [(1, 1), (10, 10), (40, 30), (2000, 30)])
def test_tiny_frames_get_an_overlay_without_a_legend(size_hw: tuple[int, int]) -> None:
    frame = np.full((*size_hw, 3), 50, np.uint8)
    result = result_for(frame)
    painted = OverlayPainter(1.0).paint(frame, result)
    expected = np.where((result.label_map == 0)[..., None], word_colour_bgr("left"), 50)
    np.testing.assert_array_equal(painted, expected)


def test_the_overlay_is_painted_once_for_all_sinks() -> None:
    painter = OverlayPainter()
    frame = frame_of(0)
    result = result_for(frame.frame_bgr)
    assert painter.paint(frame.frame_bgr, result) is painter.paint(frame.frame_bgr, result)
