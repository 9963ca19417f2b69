"""Parts of recordings: which frames come, under which numbers, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from dedos_deploy.cli.run import main
from dedos_deploy.errors import BadInputError, SourceError
from dedos_deploy.runtime import open_source
from dedos_deploy.runtime.sources.excerpt import Part

SCENE = "scene:street?frames=20&size=24x32"
"""20 frames, 25 a second."""


def ids(part: Part, uri: str = SCENE) -> list[int]:
    with part.of(open_source(uri)) as source:
        return [frame.frame_id for frame in source]


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (Part(), list(range(20))),
        (Part(every=7), [0, 7, 14]),
        (Part(start_s=0.4), list(range(10, 20))),
        (Part(end_s=0.2), list(range(5))),
        (Part(every=2, start_s=0.2, end_s=0.4), [5, 7, 9]),
    ],
)
def test_frames_keep_their_numbers(part: Part, expected: list[int]) -> None:
    assert ids(part) == expected


def test_rate_and_number_of_frames_are_those_of_the_part() -> None:
    with Part(every=7).of(open_source(SCENE)) as source:
        assert (source.fps, source.frames) == (25 / 7, 3)
    with Part(start_s=0.4).of(open_source(SCENE)) as source:
        assert (source.fps, source.frames) == (25, None)


def test_a_part_behind_the_end_is_an_error() -> None:
    with pytest.raises(SourceError, match=r"no frame from 90 s on.*last one is at 0\.76"):
        ids(Part(start_s=90))


def test_a_part_between_two_frames_is_an_error() -> None:
    with pytest.raises(
        SourceError, match=r"no frame from 0\.41 s to 0\.43 s.*next one is at 0\.44"
    ):
        ids(Part(start_s=0.41, end_s=0.43))


def test_pictures_have_no_times_but_a_number(tmp_path: Path) -> None:
    for number in range(4):
        cv2.imwrite(str(tmp_path / f"p{number}.png"), np.zeros((8, 8, 3), np.uint8))
    assert ids(Part(every=3), str(tmp_path)) == [0, 3]
    with pytest.raises(BadInputError, match="no times that --start and --end could mean"):
        ids(Part(start_s=1), str(tmp_path))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--every", "0"], "--every must be at least 1, not 0"),
        (["--start", "3", "--end", "0:03"], "--end must lie after --start, which is 3 seconds"),
        (["--source", "test:bars", "--every", "2"], "is live, and --every, --start and --end"),
        (["--source", "rtsp://127.0.0.1:1/x", "--serve", "--end", "1"], "is live, and --every"),
    ],
)
def test_what_is_no_part_is_refused_before_anything_is_written(
    options: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "o.jsonl"
    source = [] if "--source" in options else ["--source", SCENE]
    assert main([*source, *options, "--classes", "road", "--output", str(out)]) == 2
    assert sentence in capsys.readouterr().err
    assert not out.exists()


def test_the_command_line_takes_clock_times(tmp_path: Path) -> None:
    out = tmp_path / "o.jsonl"
    part = ["--every", "3", "--start", "0:00.2", "--end", "0:00:00.6"]
    assert main(["--source", SCENE, "--classes", "road", *part, "--output", str(out)]) == 0
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["frame_id"] for line in lines] == [5, 8, 11, 14]
    assert [line["name"] for line in lines] == ["000005", "000008", "000011", "000014"]


@pytest.mark.parametrize("text", ["1:2:3:4", "-1", "1e3", "half", "١"])
def test_other_positions_are_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--source", SCENE, "--start", text])
    assert "M:SS" in capsys.readouterr().err or text.startswith("-")


def test_lines_name_the_picture(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("b 2.png", "a.jpg"):
        cv2.imwrite(str(folder / name), np.zeros((8, 8, 3), np.uint8))
    out = tmp_path / "o.jsonl"
    assert main(["--source", str(folder), "--classes", "road", "--output", str(out)]) == 0
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["picture"] for line in lines] == [str(folder / "a.jpg"), str(folder / "b 2.png")]
