"""dedos-run: the whole way from arguments to files, every wrong input in one line, and Ctrl-C."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from run_process import COMMAND, start, wait_for_lines
from tiny_bundle import BASE_WORDS, stripes, write_tiny_bundle

from dedos_deploy.cli._status import status_text
from dedos_deploy.cli.run import build_parser, main
from dedos_deploy.runtime.flow.statistics import Statistics

Cli = Callable[..., int]


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "stripes.png"
    cv2.imwrite(str(path), stripes())
    return path


@pytest.fixture
def cli(bundle_folder: Path) -> Cli:
    def call(*arguments: object, bundle: Path = bundle_folder) -> int:
        return main([*map(str, arguments), "--bundle", str(bundle), "--threads", "1"])

    return call


def write_avi(path: Path, frames: int) -> Path:
    fourcc = cv2.VideoWriter.fourcc(*"MJPG")
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, fourcc, 20.0, (96, 64))
    for _ in range(frames):
        writer.write(stripes(64, 96))
    writer.release()
    return path


def one_error(capsys: pytest.CaptureFixture[str]) -> str:
    """Return the only line on stderr; stdout must be empty."""
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("dedos-run: error: ")
    return line


def frames_of(video: Path) -> int:
    capture = cv2.VideoCapture(str(video))
    count = 0
    while capture.read()[0]:
        count += 1
    return count


def test_video_into_several_outputs_at_once(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video = write_avi(tmp_path / "in.avi", 6)
    outputs = [tmp_path / "o.mp4", tmp_path / "o.jsonl", f"masks:{tmp_path / 'm'}", "null"]
    flags = [part for output in outputs for part in ("--output", output)]
    assert cli("--source", video, "--classes", "red,green", *flags) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    rows = [line.split() for line in captured.out.splitlines()]
    coverage = {row[0]: float(row[1]) for row in rows[1:4]}
    assert coverage == pytest.approx({"red": 33.3, "green": 33.3, "(unlabelled)": 33.3}, abs=3)
    for part in ("6 in ", "p50", "p99", "o.mp4 (6 frames)", "o.jsonl (6 lines)"):
        assert part in captured.out
    assert frames_of(tmp_path / "o.mp4") == 6
    assert len((tmp_path / "o.jsonl").read_text().splitlines()) == 6
    assert len(list((tmp_path / "m").glob("*.png"))) == 6


def test_json_is_the_last_line_of_stdout(
    cli: Cli, picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli("--source", picture, "--classes", "red,blue", "--json") == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (summary["frames"], summary["outcome"], summary["drops"]) == (1, "end", {})
    assert summary["coverage"] == pytest.approx({"red": 1 / 3, "blue": 1 / 3}, abs=0.02)


def test_classes_default_to_the_bundles_base_vocabulary_and_it_is_said(
    cli: Cli, picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli("--source", picture, "--json") == 0
    captured = capsys.readouterr()
    assert list(json.loads(captured.out)["coverage"]) == list(BASE_WORDS)
    assert "no --classes given: using the bundle's own 10, blue, green" in captured.err
    assert cli("--source", picture, "--json", "--quiet") == 0
    assert capsys.readouterr().err == ""


def test_classes_from_a_file(
    cli: Cli, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listing = tmp_path / "classes.txt"
    listing.write_text("# warm\nred|green\nblue@0.9\n")
    assert cli("--source", picture, "--classes", listing, "--json") == 0
    assert list(json.loads(capsys.readouterr().out)["coverage"]) == ["red", "blue"]


def test_max_frames(cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    video = write_avi(tmp_path / "in.avi", 9)
    assert cli("--source", video, "--classes", "red", "--max-frames", 4, "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["frames"], summary["outcome"], summary["warnings"]) == (4, "max_frames", [])


def test_a_thousand_classes_run(
    cli: Cli, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listing = tmp_path / "many.txt"
    listing.write_text("\n".join(["red", *(f"thing {index}" for index in range(999))]))
    masks = tmp_path / "masks"
    arguments = ("--source", picture, "--classes", listing, "--output", f"masks:{masks}", "--json")
    assert cli(*arguments) == 0
    assert json.loads(capsys.readouterr().out)["coverage"]["red"] == pytest.approx(1 / 3, abs=0.02)
    mask = cv2.imread(str(masks / "stripes.png"), cv2.IMREAD_UNCHANGED)
    assert mask.dtype == np.uint16
    assert set(np.unique(mask)) == {0, 65535}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--camera", "99", "--classes", "red"], "'camera:99' cannot be opened"),
        (["--source", "{}/missing.mp4", "--classes", "red"], "missing.mp4' does not exist"),
        (["--source", "{}/broken.avi", "--classes", "red"], "broken.avi' cannot be opened"),
        (["--source", "{}/stripes.png", "--classes", ""], "class list is empty"),
        (["--source", "{}/stripes.png", "--classes", "a,b,A"], "'A' occurs twice"),
        (["--source", "{}/stripes.png", "--classes", "x" * 40], "has 42 tokens.*takes 32"),
        (["--source", "{}/stripes.png", "--classes", "{}/no.txt"], "no.txt' does not exist"),
        (["--source", "{}/stripes.png", "--classes", "a", "--threshold", "2"], r"\[0, 1\]"),
        (["--source", "{}/stripes.png", "--classes", "a", "--opacity", "-1"], r"\[0, 1\]"),
        (["--source", "{}/stripes.png", "--classes", "a", "--max-frames", "0"], "at least 1"),
        (
            ["--source", "{}/stripes.png", "--classes", "a", "--output", "{}/no/o.mp4"],
            "cannot be written",
        ),
        (
            ["--source", "{}/stripes.png", "--classes", "a", "--output", "{}/broken.avi"],
            "--overwrite",
        ),
        (
            ["--source", "{}/stripes.png", "--classes", "a", "--output", "{}/stripes.png"],
            "is part of the source",
        ),
        (
            [
                "--source",
                "{}/stripes.png",
                "--classes",
                "a",
                "--output",
                "null",
                "--output",
                "null",
            ],
            "named twice",
        ),
        (["--source", "{}/stripes.png", "--classes", "a", "--show"], "needs a display"),
        (["--source", "scene:moon", "--classes", "a"], "write scene:street"),
    ],
)
def test_wrong_input_is_one_line_and_exit_2(
    cli: Cli,
    picture: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "broken.avi").write_bytes(b"no video")
    before = picture.read_bytes()
    assert cli(*(part.format(tmp_path) for part in arguments)) == 2
    line = one_error(capsys)
    assert re.search(message, line)
    assert picture.read_bytes() == before


def test_neither_source_nor_camera_is_an_argument_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--classes", "red"])
    assert caught.value.code == 2
    assert (
        "one of the arguments --source --camera --licenses/--credits is required"
        in capsys.readouterr().err
    )


def test_a_bundle_of_a_newer_format(
    cli: Cli, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_tiny_bundle(tmp_path / "newer")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["format_version"] = 99
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert cli("--source", picture, "--classes", "red", bundle=folder) == 2
    assert "'format_version' is 99" in one_error(capsys)


def test_a_bundle_without_base_vocabulary_asks_for_classes(
    cli: Cli, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_tiny_bundle(tmp_path / "bare", base=False)
    assert cli("--source", picture, bundle=folder) == 2
    assert "name your classes, as in --classes" in one_error(capsys)


def test_nothing_is_written_when_loading_fails(
    cli: Cli, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--source", picture, "--classes", "x" * 40, "--output", tmp_path / "o.mp4")
    assert cli(*arguments) == 2
    assert one_error(capsys)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["stripes.png"]


def test_a_video_cut_mid_frame_is_labelled_as_far_as_it_goes(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = write_avi(tmp_path / "in.avi", 10).read_bytes()
    cut = tmp_path / "cut.avi"
    pictures, index = whole.index(b"movi"), whole.index(b"idx1")
    cut.write_bytes(whole[: (pictures + index) // 2])
    output = tmp_path / "o.mp4"
    assert cli("--source", cut, "--classes", "red", "--output", output, "--json") == 0
    captured = capsys.readouterr()
    frames = json.loads(captured.out)["frames"]
    assert 0 < frames < 10
    assert frames_of(output) == frames
    (line,) = captured.err.splitlines()
    assert line.startswith("dedos-run: warning: video")
    assert f"cut.avi' ended after {frames} of the 10 frames" in line


def test_no_noise_of_libraries_and_no_password_on_stderr(
    bundle_folder: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"\x00\x00\x00\x18ftypmp42")
    for source in (str(broken), "rtsp://user:s3cret@127.0.0.1:1/live"):
        arguments = ["--source", source, "--classes", "red", "--bundle", str(bundle_folder)]
        done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=120)
        assert (done.returncode, done.stdout) == (2, "")
        assert len(done.stderr.splitlines()) == 1
        assert "s3cret" not in done.stderr


def start_endless(bundle: Path, tmp_path: Path) -> tuple[subprocess.Popen[str], Path, Path]:
    """Start labelling a scene that lasts for hours; return the process, its video and lines."""
    video, lines = tmp_path / "o.mp4", tmp_path / "o.jsonl"
    process = start(
        bundle,
        "--source",
        "scene:hall?frames=1000000&size=48x64",
        "--classes",
        "red,blue",
        "--output",
        video,
        "--output",
        lines,
        "--threads",
        "1",
    )
    return process, video, lines


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_completes_the_outputs_and_exits_130(
    bundle_folder: Path, tmp_path: Path, number: signal.Signals
) -> None:
    process, video, lines = start_endless(bundle_folder, tmp_path)
    wait_for_lines(process, lines, 5)
    assert not video.exists()
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "")
    assert "stopped on request" in out
    written = len([json.loads(line) for line in lines.read_text().splitlines()])
    assert f"o.mp4 ({written} frames)" in out
    assert frames_of(video) == written >= 5
    assert {path.name for path in tmp_path.iterdir()} - {"cache"} == {"o.jsonl", "o.mp4"}


@pytest.mark.parametrize("delay_s", [0.0, 0.2, 0.5, 1.0, 2.0])
def test_ctrl_c_at_any_moment_leaves_a_playable_video_or_none(
    bundle_folder: Path, tmp_path: Path, delay_s: float
) -> None:
    process, video, _ = start_endless(bundle_folder, tmp_path)
    time.sleep(delay_s)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    # -2: before Python had set any handler.
    assert process.returncode in (130, -signal.SIGINT)
    if video.exists():
        assert frames_of(video) > 0
    assert not [name for name in os.listdir(tmp_path) if ".tmp" in name]


def test_help_teaches_and_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom dedos_deploy.cli.run import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as done:\n    assert done.code == 0\n"
        "heavy = {'numpy', 'cv2', 'onnxruntime', 'tokenizers', 'torch'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    for part in ("examples:", "dedos-run --camera 0", "masks:FOLDER", "exit code"):
        assert part in done.stdout


def test_every_choice_of_background_in_the_help_loads(cli: Cli, picture: Path) -> None:
    (action,) = [a for a in build_parser()._actions if a.dest == "background"]
    for choice in action.choices or ():
        assert cli("--source", picture, "--classes", "red", "--background", choice, "--json") == 0


def test_status_line_shows_progress_rate_latency_drops_and_coverage() -> None:
    statistics = Statistics(
        frames=7,
        duration_s=2.0,
        fps=3.5,
        fps_now=4.25,
        drops={"superseded": 3},
        latency_p50_ms=80.4,
        latency_p99_ms=95.2,
        stage_ms={},
        windows=1.0,
        age_p50_ms=0.0,
        age_p99_ms=0.0,
        coverage={"car": 0.1, "road": 0.4},
        unlabelled=0.5,
        outcome="running",
    )
    assert status_text(statistics, 120) == (
        "frame 7/120  4.2 fps  p50 80 ms  p99 95 ms  drops 3  road 40%  car 10%  none 50%"
    )
    assert status_text(statistics, None).startswith("frame 7  ")
    tiled = replace(statistics, windows=6.5)
    assert "drops 3  windows 6.5  road 40%" in status_text(tiled, None)


def test_windows_of_a_frame_are_told_as_what_they_cost(
    cli: Cli, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cv2.imwrite(str(picture), stripes(120, 180))
    tiled = write_tiny_bundle(tmp_path / "tiled.dedos", tiles="2x3")
    arguments = ("--source", picture, "--classes", "red,blue", "--json")
    for bundle, more, windows in (
        (None, (), 1.0),
        (None, ("--tiles", "2x2"), 5.0),
        (tiled, (), 7.0),
        (tiled, ("--tiles", "off"), 1.0),
        (tiled, ("--tiles", "auto"), 5.0),
    ):
        given = {} if bundle is None else {"bundle": bundle}
        assert cli(*arguments, *more, **given) == 0
        assert json.loads(capsys.readouterr().out)["windows"] == windows
    assert cli(*arguments[:-1], "--tiles", "2x2") == 0
    assert "\nwindows  5 a frame\n" in capsys.readouterr().out
    assert cli(*arguments[:-1]) == 0
    assert "\nwindows " not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("tiles", "part"),
    [
        ("atuo", "argument --tiles: 'atuo' are no tiles, did you mean 'auto'?; write auto, off,"),
        ("25", "tiles 25 are a stride longer than 24 pixels"),
    ],
)
def test_tiles_that_are_none_are_told_in_one_sentence(
    cli: Cli, picture: Path, tiles: str, part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = cli("--source", picture, "--classes", "red", "--tiles", tiles)
    except SystemExit as end:
        code = end.code
    assert code == 2 and part in capsys.readouterr().err.splitlines()[-1]
