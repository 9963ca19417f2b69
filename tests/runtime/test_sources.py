"""Sources: order, identity, ends that are told from errors, and words that help."""

from __future__ import annotations

import itertools
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from dedos_deploy.errors import SourceError
from dedos_deploy.runtime import Frame, Outcome, Source, open_source
from dedos_deploy.runtime.sources.opening import paths_of
from dedos_deploy.runtime.sources.video import VideoSource


def write_video(path: Path, frames: int, *, codec: str = "MJPG") -> Path:
    """Write frames whose grey value is 10 times their number."""
    fourcc = cv2.VideoWriter.fourcc(*codec)
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, fourcc, 20.0, (64, 48))
    for index in range(frames):
        writer.write(np.full((48, 64, 3), 10 * index, dtype=np.uint8))
    writer.release()
    return path


def write_image(path: Path, value: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((6, 8, 3), value, dtype=np.uint8))
    return path


def values(source: Source) -> list[int]:
    return [round(float(frame.frame_bgr.mean())) for frame in source]


def test_video_gives_every_frame_with_its_position(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.avi", 12)
    with open_source(str(path)) as source:
        assert (source.live, source.frames, source.fps) == (False, 12, 20.0)
        frames = list(source)
    assert [frame.frame_id for frame in frames] == list(range(12))
    assert [frame.media_s for frame in frames] == pytest.approx([i / 20 for i in range(12)])
    means = [frame.frame_bgr.mean() for frame in frames]
    assert means == pytest.approx([10.0 * i for i in range(12)], abs=3)
    assert all(b.timestamp_s >= a.timestamp_s for a, b in itertools.pairwise(frames))
    assert source.warnings == ()


def test_reading_past_the_end_stays_at_the_end(tmp_path: Path) -> None:
    with open_source(str(write_video(tmp_path / "v.avi", 2))) as source:
        assert len(list(source)) == 2
        assert source.read(0.0) is Outcome.END
        assert list(source) == []


@pytest.mark.parametrize("keep", [0.3, 0.6, 0.95])
def test_a_video_cut_mid_frame_gives_what_is_there_and_says_so(tmp_path: Path, keep: float) -> None:
    whole = write_video(tmp_path / "v.avi", 12).read_bytes()
    body = whole.index(b"movi")
    cut = tmp_path / "cut.avi"
    cut.write_bytes(whole[: body + int(keep * (whole.index(b"idx1") - body))])
    with open_source(str(cut)) as source:
        count = len(list(source))
        assert 0 < count < 12
        (warning,) = source.warnings
    assert "cut.avi" in warning
    assert f"ended after {count} of the 12 frames" in warning


def test_closing_early_is_not_a_cut_video(tmp_path: Path) -> None:
    source = open_source(str(write_video(tmp_path / "v.avi", 12)))
    source.read(0.0)
    source.close()
    source.close()
    assert source.warnings == ()
    assert source.read(0.0) is Outcome.END


class CountlessCapture:
    """A capture of 3 frames that does not know how many there are, or how fast."""

    def __init__(self, unknown: float) -> None:
        self.left = 3
        self._unknown = unknown

    def isOpened(self) -> bool:
        return True

    def read(self) -> tuple[bool, NDArray[np.uint8] | None]:
        self.left -= 1
        return (True, np.zeros((2, 2, 3), np.uint8)) if self.left >= 0 else (False, None)

    def get(self, prop: int) -> float:
        return self._unknown

    def release(self) -> None:
        """Nothing is held."""


@pytest.mark.parametrize("unknown", [-1.0, 0.0, float("nan"), -9.2e18, float("inf")])
def test_unknown_frame_count_and_rate(unknown: float) -> None:
    with VideoSource("x", source_id="x", capture=CountlessCapture(unknown)) as source:
        assert (source.frames, source.fps) == (None, None)
        assert [frame.media_s for frame in source] == [None] * 3
        assert source.warnings == ()


@pytest.mark.parametrize("content", [b"", b"this is no video" * 100, b"\x00\x00\x00\x18ftypmp42"])
def test_unreadable_video(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.mp4"
    path.write_bytes(content)
    with pytest.raises(SourceError, match="broken.mp4' cannot be opened.*convert it to MP4"):
        open_source(str(path))


def test_images_of_a_folder_in_natural_order(tmp_path: Path) -> None:
    for number in (10, 9, 2):
        write_image(tmp_path / f"frame{number}.png", number)
    (tmp_path / "notes.txt").write_text("no image")
    with open_source(str(tmp_path)) as source:
        frames = list(source)
        assert source.frames == 3
    assert [frame.name for frame in frames] == ["frame2", "frame9", "frame10"]
    assert [int(frame.frame_bgr[0, 0, 0]) for frame in frames] == [2, 9, 10]


def test_glob_over_folders_gives_unique_names(tmp_path: Path) -> None:
    write_image(tmp_path / "a" / "1.png", 1)
    write_image(tmp_path / "b" / "1.png", 2)
    with open_source(str(tmp_path / "*" / "*.png")) as source:
        frames = list(source)
    assert [frame.name for frame in frames] == ["000000_1", "000001_1"]
    assert [int(frame.frame_bgr[0, 0, 0]) for frame in frames] == [1, 2]


def test_a_file_name_with_brackets_is_no_glob(tmp_path: Path) -> None:
    path = write_image(tmp_path / "take[1].png", 7)
    with open_source(str(path)) as source:
        assert values(source) == [7]


@pytest.mark.parametrize(
    ("picture", "expected"),
    [
        (np.full((4, 4), 80, np.uint8), (80, 80, 80)),
        (np.full((4, 4, 4), (1, 2, 3, 0), np.uint8), (1, 2, 3)),
        (np.full((4, 4, 3), 0x4000, np.uint16), (64, 64, 64)),
    ],
)
def test_grey_alpha_and_deep_images_become_bgr(
    tmp_path: Path, picture: NDArray[np.uint8], expected: tuple[int, int, int]
) -> None:
    cv2.imwrite(str(tmp_path / "x.png"), picture)
    with open_source(str(tmp_path / "x.png")) as source:
        (frame,) = source
    assert frame.frame_bgr.dtype == np.uint8
    assert tuple(frame.frame_bgr[0, 0]) == expected


def test_unreadable_images_are_skipped_counted_and_named(tmp_path: Path) -> None:
    write_image(tmp_path / "1.png", 1)
    (tmp_path / "2.png").write_bytes(b"broken")
    (tmp_path / "3.png").write_bytes(b"")
    write_image(tmp_path / "4.png", 4)
    with open_source(str(tmp_path)) as source:
        frames = list(source)
        assert [frame.frame_id for frame in frames] == [0, 3]
        assert source.drops == {"unreadable": 2}
        (warning,) = source.warnings
    assert "2 of 4 images" in warning
    assert "2.png" in warning


def test_what_a_source_is_read_from_is_known_by_any_address(tmp_path: Path) -> None:
    """So that no output takes its place; settings are told from the letters of a glob."""
    for name in ("d.mcap", "1.png", "2.png"):
        (tmp_path / name).touch()
    assert paths_of(f"{tmp_path}/d.mcap?rate=1&topic=/a") == (tmp_path / "d.mcap",)
    assert set(paths_of(f"{tmp_path}/?.png")) == {tmp_path / "1.png", tmp_path / "2.png"}
    assert paths_of(str(tmp_path)) == (tmp_path,)
    assert paths_of("rtsp://127.0.0.1/x") == paths_of(f"{tmp_path}/none.mp4") == ()


def test_only_unreadable_images_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(b"broken")
    with open_source(str(tmp_path / "1.png")) as source:
        with pytest.raises(SourceError, match="1.png' is not a readable image; convert it"):
            source.read(0.0)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("empty", "holds no image; image files end in .bmp"),
        ("*.png", "holds no image"),
        ("missing.mp4", "missing.mp4' does not exist; it can be a camera number"),
        ("missing.png", "does not exist"),
    ],
)
def test_nothing_there(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match=message):
        open_source(str(tmp_path / name))


def test_scene_gives_what_was_asked_for_and_the_same_each_time() -> None:
    uri = "scene:street?frames=3&size=48x64&seed=5"
    with open_source(uri) as first, open_source(uri) as second:
        frames = list(first)
        assert first.frames == 3
        for frame, again in zip(frames, second, strict=True):
            np.testing.assert_array_equal(frame.frame_bgr, again.frame_bgr)
    assert frames[0].frame_bgr.shape == (48, 64, 3)
    assert not np.array_equal(frames[0].frame_bgr, frames[2].frame_bgr)


@pytest.mark.parametrize(
    "uri",
    ["scene:moon", "scene:", "scene:street?frames=-1", "scene:hall?size=10", "scene:hall?speed=2"],
)
def test_unknown_scenes(uri: str) -> None:
    with pytest.raises(SourceError, match="write scene:street or scene:hall, with settings as in"):
        open_source(uri)


@pytest.mark.parametrize("uri", ["99", "camera:99", "/dev/video99"])
def test_unknown_camera(uri: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SourceError, match="99' cannot be opened.*cameras on this machine: "):
        open_source(uri)
    assert capfd.readouterr().err == ""


def test_frame_says_what_it_is() -> None:
    frame = Frame(np.zeros((4, 6, 3), np.uint8), 3, 0.0, "camera:0", "000003")
    assert repr(frame) == "Frame('camera:0', id=3, 4x6)"
