"""Calibration frames: spread over time and brightness, usable, enough, and the same every time."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import cv2
import numpy as np
import pytest
from calib_micro import picture
from numpy.typing import NDArray

from dedos_deploy.calib import selection
from dedos_deploy.calib.selection import (
    CalibrationFrames,
    calibration_frames,
    data_sha256,
    describe_skipped,
)
from dedos_deploy.errors import BadInputError, SourceError
from dedos_deploy.runtime.frame import Frame
from dedos_deploy.runtime.sources.contract import Outcome, Source

HW = (20, 30)
Pictures = Iterable[NDArray[np.uint8]]


@pytest.fixture
def video(tmp_path: Path) -> Callable[[Pictures], Path]:
    """Return a writer of lossless videos: equal pictures stay equal."""

    def write(pictures: Pictures) -> Path:
        path = tmp_path / "drive.avi"
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"FFV1"), 10, (32, 24))
        for frame in pictures:
            writer.write(frame)
        writer.release()
        return path

    return write


def _means(found: CalibrationFrames) -> list[float]:
    return [float(frame.mean()) for frame in found.frames]


def test_a_folder_gives_all_it_has_resized(pictures: Path) -> None:
    found = calibration_frames(pictures, size_hw=(10, 12))
    assert len(found.frames) == 40 and not found.skipped and not found.warnings
    assert {frame.shape for frame in found.frames} == {(10, 12, 3)}
    # Natural order over folders: the names of each folder grow, and so do the grey levels.
    means = _means(found)
    assert means[:20] == sorted(means[:20]) and means[20:] == sorted(means[20:])


def test_a_seed_gives_the_same_frames_and_another_seed_others(pictures: Path) -> None:
    first = calibration_frames(pictures, size_hw=HW, count=16, seed=1)
    again = calibration_frames(pictures, size_hw=HW, count=16, seed=1)
    other = calibration_frames(pictures, size_hw=HW, count=16, seed=2)
    assert len(first.frames) == len(other.frames) == 16
    assert all(np.array_equal(*pair) for pair in zip(first.frames, again.frames, strict=True))
    assert first.data_sha256 == again.data_sha256 != other.data_sha256


def test_the_hash_knows_pixels_but_no_order(pictures: Path) -> None:
    found = calibration_frames(pictures, size_hw=HW)
    shuffled = list(found.frames)
    random.Random(0).shuffle(shuffled)
    assert data_sha256(shuffled) == found.data_sha256
    changed = shuffled[0].copy()
    changed[3, 4, 1] ^= 1
    assert data_sha256([changed, *shuffled[1:]]) != found.data_sha256
    # The same bytes at another size are another picture.
    assert data_sha256([changed]) != data_sha256([changed.reshape(30, 20, 3)])


def test_video_is_spread_over_time_and_over_brightness(video: Callable[[Pictures], Path]) -> None:
    """Bright, but for one tunnel of a twentieth of the time."""
    dark = set(range(100, 120))
    frames = (picture(i, (24, 32)) // (8 if i in dark else 1) for i in range(400))
    found = calibration_frames(video(frames), size_hw=HW, count=16)
    assert len(found.frames) == 16
    by_time = _means(calibration_frames(video(_numbered(400)), size_hw=HW, count=16))
    quarters = np.bincount((np.array(by_time) / 64).astype(int), minlength=4)
    assert quarters.tolist() == [4, 4, 4, 4]
    assert sum(mean < 40 for mean in _means(found)) in (1, 2)


def _numbered(count: int) -> Pictures:
    """Pictures whose mean grows from 0 to 255, each with some structure."""
    for index in range(count):
        frame = np.full((24, 32, 3), 255 * index // count, np.float64)
        frame[::2] += 4
        frame[1::2] -= 4
        frame[0, 0, 0] = index % 251
        yield np.clip(frame, 0, 255).astype(np.uint8)


def test_a_long_video_is_looked_at_evenly_in_bounded_memory(
    video: Callable[[Pictures], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    settled = selection._Candidates.settled

    def looked(candidates: selection._Candidates) -> object:
        seen.extend(sorted(candidates._seen))
        return settled(candidates)

    monkeypatch.setattr(selection._Candidates, "settled", looked)
    calibration_frames(video(_numbered(700)), size_hw=HW, count=16)
    assert 64 <= len(seen) <= 128
    assert seen == list(range(0, 700, seen[1]))


def test_unusable_pictures_are_left_out_and_named(pictures: Path) -> None:
    cv2.imwrite(str(pictures / "black.png"), np.zeros((20, 30, 3), np.uint8))
    cv2.imwrite(str(pictures / "blue.png"), np.full((20, 30, 3), (255, 0, 0), np.uint8))
    (pictures / "broken.jpg").write_bytes(b"\xff\xd8 not a picture")
    (pictures / "empty.png").write_bytes(b"")
    (pictures / "copy.png").write_bytes((pictures / "4.png").read_bytes())
    jpeg = bytes(cv2.imencode(".jpg", picture(99, (200, 300)))[1])
    (pictures / "cut.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    found = calibration_frames(pictures, size_hw=HW)
    assert len(found.frames) == 40
    reasons = {Path(each.name).name: each.reason for each in found.skipped}
    # Of two equal ones the later in order goes.
    assert reasons == {
        "black.png": "constant",
        "blue.png": "constant",
        "broken.jpg": "unreadable",
        "empty.png": "unreadable",
        "cut.jpg": "unreadable",
        "copy.png": "duplicate",
    }
    assert "2 constant (first: '" in describe_skipped(found.skipped)
    # A whole JPEG of the same picture is fine.
    (pictures / "cut.jpg").write_bytes(jpeg)
    assert len(calibration_frames(pictures, size_hw=HW).frames) == 41


def test_too_few_usable_frames_are_refused(pictures: Path) -> None:
    for path in sorted(pictures.rglob("*.png"))[:25]:
        cv2.imwrite(str(path), np.full((20, 30, 3), 7, np.uint8))
    with pytest.raises(
        BadInputError,
        match=r"pictures' has 15 usable frames for calibration, at least 16 are needed \(skipped: "
        r"25 constant \(first: .*\.png'\)\); give more pictures",
    ):
        calibration_frames(pictures, size_hw=HW)
    # What the message says: more pictures.
    cv2.imwrite(str(pictures / "more.png"), picture(77, HW))
    assert len(calibration_frames(pictures, size_hw=HW).frames) == 16
    with pytest.raises(BadInputError, match="15 calibration frames are too few, at least 16"):
        calibration_frames(pictures, size_hw=HW, count=15)


def test_a_frozen_camera_is_refused(video: Callable[[Pictures], Path]) -> None:
    path = video([picture(0, (24, 32))] * 60)
    with pytest.raises(BadInputError, match=r"1 usable frame.*59 duplicate \(first: 'frame 1'\)"):
        calibration_frames(path, size_hw=HW)


def test_frames_that_come_twice_are_not_lost_when_the_video_is_long(
    video: Callable[[Pictures], Path],
) -> None:
    """Every even frame repeats the one before it, and only even frames are looked at."""
    frames = (picture((i + 1) // 2, (24, 32)) for i in range(300))
    assert len(calibration_frames(video(frames), size_hw=HW, count=16).frames) == 16


def test_sources_without_frames_are_named(tmp_path: Path) -> None:
    text = tmp_path / "video.mp4"
    text.write_text("not a video")
    with pytest.raises(SourceError, match="video.mp4' cannot be opened.*check that it plays"):
        calibration_frames(text, size_hw=HW)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="holds no image"):
        calibration_frames(tmp_path / "empty", size_hw=HW)
    with pytest.raises(SourceError, match="nowhere' does not exist"):
        calibration_frames(tmp_path / "nowhere", size_hw=HW)


def test_a_video_of_nothing_is_named(video: Callable[[Pictures], Path]) -> None:
    with pytest.raises(SourceError, match="drive.avi'.*(cannot be opened|can be decoded)"):
        calibration_frames(video([]), size_hw=HW)


def test_a_labelled_folder_gives_its_images_only(tmp_path: Path) -> None:
    for kind, offset in (("images", 0), ("labels", 100)):
        (tmp_path / kind / "val").mkdir(parents=True)
        for index in range(16):
            name = str(tmp_path / kind / "val" / f"{index}.png")
            cv2.imwrite(name, picture(offset + index, HW))
    found = calibration_frames(tmp_path, size_hw=HW)
    expected = [picture(index, HW) for index in range(16)]
    assert found.data_sha256 == data_sha256(expected)
    assert calibration_frames(f"{tmp_path}/images/**/*.png", size_hw=HW).frames[0].shape == (*HW, 3)


def test_scenes_are_a_source_too() -> None:
    found = calibration_frames("scene:street?frames=20&size=48x64", size_hw=HW, count=16)
    assert len(found.frames) == 16


class FakeCamera(Source):
    """Gives a new picture at every read, and breaks or falls silent after `frames`."""

    live = True
    source_id = "rtsp://***@camera/live"

    def __init__(self, frames: int, *, breaks: bool = False) -> None:
        self.left, self.breaks, self.closed = frames, breaks, False

    def read(self, timeout_s: float) -> Frame | Outcome:
        if self.left == 0:
            if self.breaks:
                raise SourceError("source 'rtsp://***@camera/live' stopped delivering")
            time.sleep(timeout_s)
            return Outcome.TIMEOUT
        self.left -= 1
        number = -self.left % 2**40
        return Frame(picture(number, (24, 32)), number, 0.0, self.source_id, "x")

    def close(self) -> None:
        self.closed = True


URI = "rtsp://user:hunter2@camera/live?token=abc"


def _watch(camera: FakeCamera, monkeypatch: pytest.MonkeyPatch) -> CalibrationFrames:
    monkeypatch.setattr(selection, "open_source", lambda uri: camera)
    try:
        return calibration_frames(URI, size_hw=HW, count=20, live_s=0.5)
    finally:
        assert camera.closed


def test_a_camera_is_watched_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    started_s = time.monotonic()
    found = _watch(FakeCamera(50), monkeypatch)
    assert 0.4 < time.monotonic() - started_s < 5.0
    assert len(found.frames) == 20
    assert found.source == "rtsp://***@camera/live?token=***"
    assert "hunter2" not in repr(found)


def test_a_camera_that_never_ends_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    found = _watch(FakeCamera(10**9), monkeypatch)
    assert len(found.frames) == 20


def test_a_camera_that_is_lost_gives_what_it_gave(monkeypatch: pytest.MonkeyPatch) -> None:
    found = _watch(FakeCamera(30, breaks=True), monkeypatch)
    assert len(found.frames) == 20
    assert found.warnings == ("source 'rtsp://***@camera/live' stopped delivering",)
    with pytest.raises(
        BadInputError, match=r"'rtsp://\*\*\*@camera.*has 3 usable frames"
    ) as caught:
        _watch(FakeCamera(3, breaks=True), monkeypatch)
    assert "hunter2" not in str(caught.value)
    with pytest.raises(SourceError, match="stopped delivering"):
        _watch(FakeCamera(0, breaks=True), monkeypatch)
    with pytest.raises(SourceError, match=r"gave no frame in 0\.5 s; check that it delivers"):
        _watch(FakeCamera(0), monkeypatch)


def test_a_camera_whose_driver_does_not_come_back_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    let_go = threading.Event()

    class Hanging(FakeCamera):
        def read(self, timeout_s: float) -> Frame | Outcome:
            let_go.wait(30)
            return Outcome.END

    started_s = time.monotonic()
    with pytest.raises(SourceError, match=r"gave no frame in 0\.5 s"):
        _watch(Hanging(0), monkeypatch)
    assert time.monotonic() - started_s < 10.0
    let_go.set()
