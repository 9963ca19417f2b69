"""Videos as they are met: interlaced, damaged, with counts that are guesses, live in bursts."""

from __future__ import annotations

import base64
import struct
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest

from dedos_deploy.cli.run import main
from dedos_deploy.errors import SourceError
from dedos_deploy.runtime import Frame, open_source
from dedos_deploy.runtime.flow.feed_options import Reconnect
from dedos_deploy.runtime.sources import interlaced
from dedos_deploy.runtime.sources.bars import read_number, write_number
from dedos_deploy.runtime.sources.video_files import ffmpeg_words

MPEG2 = base64.b64decode(
    "AAABswEAEBP//+AAAAABtRSCAAEAAAAAAbgACABAAAABAAAP//gAAAG1j//zAAAAAAEBE2SlKXwt+awAAAECE2SlKX"
    "wt+awAAAGzAQAQE///4AAAAAG1FIIAAQAAAAABuAAIAMAAAAEAAA//+AAAAbWP//MAAAAAAQETeWpSl91fpMAAAAEC"
    "E3lqUpfdX6VA"
)
H264 = base64.b64decode(
    "AAABZ2QQFazytCAAAAMAIAAABkKAAAABaP4PLIsAAAFliIIsBL/26Mn8yxruPUVcnBhsbnDwfk3gv4EAAAFnZBAVrP"
    "K0IAAAAwAgAAAGQoAAAAFo/g8siwAAAWWIgQsDv/bkLovgUzA9B0BYCTnG/FfRE5k3wA=="
)
"""Interlaced elementary streams of two pictures each, by FFmpeg's encoders."""
COLOURS_BGR = ((0, 200, 0), (200, 0, 200))


def write_video(path: Path, count: int = 30, *, codec: str = "MJPG") -> Path:
    """Write pictures whose lower edge tells their number."""
    fourcc = cv2.VideoWriter.fourcc(*codec)
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, fourcc, 25.0, (192, 96))
    for number in range(count):
        writer.write(picture_of(number))
    writer.release()
    return path


def picture_of(number: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    picture = np.full((96, 192, 3), 100, np.uint8)
    write_number(picture, number)
    return picture


def read_all(address: Path | str) -> tuple[list[Frame], dict[str, int], tuple[str, ...]]:
    with open_source(str(address)) as source:
        return list(source), dict(source.drops), source.warnings


# Interlaced


@pytest.mark.parametrize(
    ("stream", "name"),
    [
        (MPEG2, "clip.m2v"),
        (H264, "clip.h264"),
        (MPEG2, "it's, a [strange]; \\name: 50% é日.m2v"),
    ],
)
def test_interlaced_pictures_are_read_as_they_are(stream: bytes, name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(stream * 5)
    frames, _, warnings = read_all(path)
    # The decoder keeps the last one back where the stream does not say that it is over.
    assert len(frames) in (9, 10) and warnings == ()
    for number, frame in enumerate(frames):
        assert np.abs(frame.frame_bgr - np.array(COLOURS_BGR[number % 2])).max() < 20


def test_only_interlaced_video_takes_the_way_round(tmp_path: Path) -> None:
    if not interlaced.can_filter():
        pytest.skip("this OpenCV has no filters, and none is needed where it reads the clips above")
    (tmp_path / "clip.m2v").write_bytes(MPEG2)
    assert interlaced.has_interlaced(str(tmp_path / "clip.m2v"))
    assert not interlaced.has_interlaced(str(write_video(tmp_path / "v.mp4", codec="mp4v")))
    assert not interlaced.has_interlaced(str(tmp_path / "none.mp4"))


def test_where_there_is_no_way_round_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def yes() -> bool:
        return True

    def no() -> bool:
        return False

    monkeypatch.setattr(interlaced, "is_suspect", yes)
    monkeypatch.setattr(interlaced, "is_bad", yes)
    monkeypatch.setattr(interlaced, "can_filter", no)
    path = write_video(tmp_path / "v.avi", 2)
    (warning,) = read_all(path)[2]
    assert f"OpenCV {cv2.__version__} reads interlaced video as black" in warning
    assert "pip install 'opencv-python==4.12.*'" in warning and "bwdif" in warning
    monkeypatch.setattr(interlaced, "is_bad", no)
    assert read_all(path)[2] == ()


# Damage


@pytest.mark.timeout(60)
@pytest.mark.parametrize("suffix", [".avi", ".mkv"])
def test_damage_in_the_middle_costs_what_is_damaged(
    suffix: str, tmp_path: Path, bundle_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_video(tmp_path / f"v{suffix}")
    data = bytearray(path.read_bytes())
    starts = [at for at in range(len(data)) if data[at : at + 3] == b"\xff\xd8\xff"]
    for number in (10, 11, 17):
        data[starts[number] : starts[number] + 200] = bytes(200)
    path.write_bytes(data)
    frames, drops, (warning,) = read_all(path)
    expected = [number for number in range(30) if number not in (10, 11, 17)]
    assert [read_number(frame.frame_bgr) for frame in frames] == expected
    assert [frame.frame_id for frame in frames] == list(range(27))
    assert drops == {"unreadable": 3}
    assert "is damaged (FFmpeg says 'No JPEG data found in image')" in warning
    assert "3 of its pictures could not be decoded and were skipped" in warning
    common = ["--bundle", str(bundle_folder), "--threads", "1", "--classes", "red", "--quiet"]
    assert main(["--source", str(path), "--output", str(tmp_path / "o.jsonl"), *common]) == 0
    captured = capsys.readouterr()
    assert captured.err.count("is damaged") == 1 and "3 unreadable" in captured.out
    assert len((tmp_path / "o.jsonl").read_text().splitlines()) == 27


def avi_chunk(kind: bytes, content: bytes) -> bytes:
    return kind + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)


def write_slides(path: Path, count: int, sounds: int) -> Path:
    """Write a picture, so many packets of sound, the next picture, and so on."""
    main_header = struct.pack("<14I", 10**6, 0, 0, 16, count, 0, 2, 0, 192, 96, 0, 0, 0, 0)
    video = struct.pack(
        "<4s4s10I4H", b"vids", b"MJPG", 0, 0, 0, 1, 1, 0, count, 0, 0, 0, 0, 0, 0, 0
    )
    picture = struct.pack("<IiiHH4sIiiII", 40, 192, 96, 1, 24, b"MJPG", 0, 0, 0, 0, 0)
    total = 8 * sounds * count
    audio = struct.pack("<4s4s10I4H", b"auds", b"", 0, 0, 0, 1, 8000, 0, total, 0, 0, 1, 0, 0, 0, 0)
    sound = struct.pack("<HHIIHH", 1, 1, 8000, 8000, 1, 8)
    streams = [
        avi_chunk(b"LIST", b"strl" + avi_chunk(b"strh", head) + avi_chunk(b"strf", form))
        for head, form in ((video, picture), (audio, sound))
    ]
    header = b"hdrl" + avi_chunk(b"avih", main_header) + b"".join(streams)
    movie = b"movi"
    for number in range(count):
        jpeg = cv2.imencode(".jpg", picture_of(number))[1].tobytes()
        movie += avi_chunk(b"00dc", jpeg) + sounds * avi_chunk(b"01wb", b"\x80" * 8)
    body = b"AVI " + avi_chunk(b"LIST", header) + avi_chunk(b"LIST", movie)
    path.write_bytes(avi_chunk(b"RIFF", body))
    return path


@pytest.mark.timeout(60)
def test_slides_with_much_sound_between_them_are_all_read(tmp_path: Path) -> None:
    """OpenCV gives up a read after 4096 packets without a picture."""
    frames, drops, warnings = read_all(write_slides(tmp_path / "s.avi", 4, 5000))
    assert [read_number(frame.frame_bgr) for frame in frames] == [0, 1, 2, 3]
    assert drops == {} and warnings == ()


# How many there are


def with_edit_list(path: Path, *, skipped: int) -> Path:
    """Let an MP4 of 25 frames a second begin at a later picture; its count stays."""
    data = bytearray(path.read_bytes())
    at = data.index(b"mdhd") + 16
    (timescale,) = struct.unpack(">I", data[at : at + 4])
    at = data.index(b"elst") + 16  # after flags, count and the entry's duration
    data[at - 4 : at] = struct.pack(">I", 1000 * (30 - skipped) // 25)
    data[at : at + 4] = struct.pack(">I", skipped * timescale // 25)
    path.write_bytes(data)
    return path


def with_duration(path: Path, factor: float) -> Path:
    """Let a WebM last longer than its pictures do, as one whose sound goes on."""
    data = bytearray(path.read_bytes())
    at = data.index(b"\x44\x89\x88") + 3
    (duration,) = struct.unpack(">d", data[at : at + 8])
    data[at : at + 8] = struct.pack(">d", factor * duration)
    path.write_bytes(data)
    return path


ESTIMATES: dict[str, tuple[Callable[[Path], Path], int]] = {
    "an edit list": (
        lambda folder: with_edit_list(write_video(folder / "v.mp4", codec="mp4v"), skipped=13),
        17,
    ),
    "longer sound": (
        lambda folder: with_duration(write_video(folder / "v.webm", codec="VP80"), 3.0),
        30,
    ),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", ESTIMATES)
def test_fewer_pictures_than_estimated_are_no_cut_short_video(kind: str, tmp_path: Path) -> None:
    write, count = ESTIMATES[kind]
    path = write(tmp_path)
    with open_source(str(path)) as source:
        assert source.frames is not None and source.frames > count
        assert len(list(source)) == count
        assert source.warnings == ()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("suffix", [".avi", ".webm", ".mkv"])
def test_a_video_that_was_cut_short_is_still_said(suffix: str, tmp_path: Path) -> None:
    codec = "VP80" if suffix == ".webm" else "MJPG"
    path = write_video(tmp_path / f"v{suffix}", codec=codec)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    frames, _, warnings = read_all(path)
    assert 0 < len(frames) < 30
    assert "the file may be cut short, what was read is labelled" in warnings[-1]


# FFmpeg's own words


@pytest.mark.timeout(60)
def test_what_ffmpeg_says_is_handed_on(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", codec="mp4v")
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"moov") - 8])
    with pytest.raises(
        SourceError, match=r"cannot be opened \(FFmpeg says 'moov atom not found'\)"
    ):
        open_source(str(path))
    assert ffmpeg_words(str(write_video(tmp_path / "whole.avi"))) == ""
    # Nothing is asked of a server in another process, whose command line everybody sees.
    assert ffmpeg_words("rtsp://user:password@127.0.0.1:9/x") is None


# Live

Serve = Callable[[Callable[[BaseHTTPRequestHandler, int], None]], str]


@pytest.mark.timeout(60)
def test_interlaced_streams_are_read_as_they_are(serve_http: Serve) -> None:
    over = threading.Event()

    def stream(handler: BaseHTTPRequestHandler, _: int) -> None:
        handler.send_response(200)
        handler.end_headers()
        while not over.wait(0.01):
            handler.wfile.write(MPEG2)

    address = serve_http(stream).replace("http://", "http://user:p%40ss@") + "/live?a=1,b"
    with open_source(address, reconnect=Reconnect(attempts=0)) as source:
        assert source.live
        pictures = [frame.frame_bgr for frame in islice(source, 5)]
    over.set()
    for picture in pictures:
        distances = [np.abs(picture - np.array(colour)).max() for colour in COLOURS_BGR]
        assert min(distances) < 20
    assert len({picture.tobytes() for picture in pictures}) == 2


@pytest.mark.timeout(60)
def test_a_stream_in_bursts_gives_its_pictures_one_after_the_other(
    serve_http: Serve, tmp_path: Path
) -> None:
    rate, count = 25, 4
    segments = []
    for number in range(count):
        path = tmp_path / f"{number}.ts"
        fourcc = cv2.VideoWriter.fourcc(*"FMP4")
        writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, fourcc, rate, (192, 96))
        for index in range(rate):
            writer.write(picture_of(number * rate + index))
        writer.release()
        segments.append(path.read_bytes())
    started = time.monotonic()

    def answer(handler: BaseHTTPRequestHandler, _: int) -> None:
        there = min(count, 2 + int(time.monotonic() - started))
        lines = [f"#EXT-X-DISCONTINUITY\n#EXTINF:1.0,\n{number}.ts" for number in range(there)]
        head = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXT-X-MEDIA-SEQUENCE:0\n"
        is_list = handler.path.endswith(".m3u8")
        end = "\n#EXT-X-ENDLIST\n" if there == count else "\n"
        text = (head + "\n".join(lines) + end).encode()
        content = text if is_list else segments[int(handler.path[1:-3])]
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    numbers = []
    with open_source(serve_http(answer) + "/live.m3u8", reconnect=Reconnect(attempts=0)) as source:
        assert source.live
        with pytest.raises(SourceError, match="stopped delivering frames"):
            for frame in source:
                numbers.append(read_number(frame.frame_bgr))
                time.sleep(0.01)  # as a net would take
    # Of a burst nobody could have taken more than the last few.
    assert numbers == sorted(numbers) and len(numbers) >= 40
