from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from dedos_deploy.calib import sample_frames
from dedos_deploy.errors import BadInputError


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Twelve pictures in two folders; the grey level of number i is 10 i."""
    folder = tmp_path / "pictures"
    (folder / "deep").mkdir(parents=True)
    for index in range(12):
        place = folder / "deep" if index % 2 else folder
        grey = np.full((9, 7, 3), 10 * index, np.uint8)
        cv2.imwrite(str(place / f"{index:02}.{'PNG' if index == 4 else 'png'}"), grey)
    (folder / "notes.txt").write_text("not a picture")
    return folder


def _levels(frames: list[np.ndarray]) -> list[int]:  # type: ignore[type-arg]
    return [int(frame[0, 0, 0]) for frame in frames]


def test_folder_is_sampled_the_same_way_every_time(pictures: Path) -> None:
    first = _levels(sample_frames(pictures, count=5, seed=1))
    assert first == _levels(sample_frames(pictures, count=5, seed=1))
    assert len(set(first)) == 5
    assert first != _levels(sample_frames(pictures, count=5, seed=2))


def test_folder_gives_all_it_has(pictures: Path) -> None:
    levels = _levels(sample_frames(pictures, count=99))
    assert sorted(levels) == [10 * index for index in range(12)]


def test_one_picture_grey_and_deep(tmp_path: Path) -> None:
    path = tmp_path / "grey.png"
    cv2.imwrite(str(path), np.full((5, 6), 40000, np.uint16))
    (frame,) = sample_frames(path, count=3)
    assert frame.shape == (5, 6, 3) and frame.dtype == np.uint8
    assert abs(int(frame[0, 0, 0]) - 40000 / 257) < 2


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "drive.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (32, 24))
    for index in range(20):
        writer.write(np.full((24, 32, 3), 10 * index, np.uint8))
    writer.release()
    return path


def test_video_is_spread_over_its_length(video: Path) -> None:
    levels = _levels(sample_frames(video, count=4))
    # Middles of four equal parts: frames 2, 7, 12, 17.
    np.testing.assert_allclose(levels, [20, 70, 120, 170], atol=4)
    assert len(sample_frames(video, count=50)) == 20


def test_video_that_breaks_off_gives_what_it_has(tmp_path: Path) -> None:
    path, rng = tmp_path / "drive.avi", np.random.default_rng(0)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (96, 64))
    for _ in range(20):
        writer.write(rng.integers(0, 256, (64, 96, 3), dtype=np.uint8))
    writer.release()
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert 5 <= len(sample_frames(path, count=20)) <= 15
    assert len(sample_frames(path, count=3)) == 3


def test_unusable_sources_are_named(tmp_path: Path, pictures: Path) -> None:
    with pytest.raises(BadInputError, match="nowhere' does not exist; give a picture"):
        sample_frames(tmp_path / "nowhere", count=1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInputError, match="empty' has no picture"):
        sample_frames(tmp_path / "empty", count=1)
    (pictures / "03.jpg").write_bytes(b"\xff\xd8 not a picture")
    with pytest.raises(BadInputError, match="03.jpg' cannot be read: damaged"):
        sample_frames(pictures, count=99)
    text = tmp_path / "video.mp4"
    text.write_text("not a video")
    with pytest.raises(BadInputError, match="video.mp4' is not a readable picture or video"):
        sample_frames(text, count=1)
    with pytest.raises(BadInputError, match="at least 1, not 0"):
        sample_frames(pictures, count=0)
