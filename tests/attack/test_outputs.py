"""Outputs: full disks, links, sources named as outputs, files taken away: said, never lost in silence."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

sys.path += [str(Path(__file__).parents[1] / "runtime")]

from run_process import COMMAND  # noqa: E402
from runtime_fakes import result_for  # noqa: E402
from tiny_bundle import stripes, write_tiny_bundle  # noqa: E402

from dedos_deploy.bundle import Bundle  # noqa: E402
from dedos_deploy.cli.run import main  # noqa: E402
from dedos_deploy.errors import BadInputError, SinkError  # noqa: E402
from dedos_deploy.runtime import Frame, SinkOptions, open_sink  # noqa: E402

SIZE_HW = (48, 64)
NOISE = np.random.default_rng(0)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("tiny") / "bundle")


def frame_of(number: int, name: str | None = None) -> Frame:
    picture = NOISE.integers(0, 256, (*SIZE_HW, 3), np.uint8)
    return Frame(picture, number, number / 10, "test", name or f"{number:06d}")


def write(sink_uri: str, count: int, options: SinkOptions) -> str | None:
    with open_sink(sink_uri, options) as sink:
        for number in range(count):
            frame = frame_of(number)
            sink.write(frame, result_for(frame.frame_bgr, frame.timestamp_s))
    return sink.written


# A full disk: every file of a process is limited to so many bytes

LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)),) * 2)
from dedos_deploy.cli.run import main
raise SystemExit(main())
"""
RECORDED, LIVE = "scene:street?frames=40&size=96x128", "test:bars?fps=200&size=96x128&frames=40"
KINDS = {
    "recorded mp4": (RECORDED, "o.mp4", 4_000),
    "live mp4": (LIVE, "o.mp4", 4_000),
    "avi": (RECORDED, "o.avi", 20_000),
    "mkv": (RECORDED, "o.mkv", 20_000),
    "png": (RECORDED, "o.png", 1_000),
    "lines": (RECORDED, "o.jsonl", 2_000),
    "mcap": (RECORDED, "o.mcap", 9_000),
    "rrd": (RECORDED, "o.rrd", 60_000),
    "masks": (RECORDED, "masks:o", 40),
    "overlays": (RECORDED, "overlays:o", 1_000),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_full_disk_is_one_sentence_and_2(tiny: Path, tmp_path: Path, kind: str) -> None:
    source, name, limit = KINDS[kind]
    if name.endswith(".rrd"):
        pytest.importorskip("rerun")
    if name.endswith(".mcap"):
        pytest.importorskip("mcap")
    scheme, _, file = name.rpartition(":")
    output = f"{scheme}:{tmp_path / file}" if scheme else str(tmp_path / file)
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            LIMITED,
            str(limit),
            "--bundle",
            str(tiny),
            "--classes",
            "red",
            "--source",
            source,
            "--output",
            output,
            "--threads",
            "1",
            "--quiet",
        ],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 2, done.stderr
    errors = [line for line in done.stderr.splitlines() if "error:" in line]
    assert len(errors) == 1 and str(tmp_path / file) in errors[0]
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr
    assert f"written  {output}" not in done.stdout
    assert not [name for name in os.listdir(tmp_path) if ".tmp" in name]


def test_the_same_run_with_room_writes_every_kind(tiny: Path, tmp_path: Path) -> None:
    """That the limits above are met by the disk alone."""
    for kind in ("recorded mp4", "lines", "masks"):
        source, name, _ = KINDS[kind]
        scheme, _, file = name.rpartition(":")
        output = f"{scheme}:{tmp_path / file}" if scheme else str(tmp_path / file)
        assert run_cli(tiny, "--source", source, "--output", output) == 0


def run_cli(bundle: Path, *arguments: str) -> int:
    return main(
        ["--bundle", str(bundle), "--classes", "red", "--threads", "1", "--quiet", *arguments]
    )


def test_a_trace_on_a_full_disk_ends_nothing_and_is_2(tiny: Path, tmp_path: Path) -> None:
    lines = tmp_path / "o.jsonl"
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            LIMITED,
            "20000",
            "--bundle",
            str(tiny),
            "--classes",
            "red",
            "--source",
            "scene:street?frames=60&size=48x64",
            "--output",
            str(lines),
            "--trace",
            str(tmp_path / "t.json"),
            "--threads",
            "1",
            "--quiet",
        ],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 2
    assert lines.read_text().count("\n") == 60
    (error,) = [line for line in done.stderr.splitlines() if "error:" in line]
    assert "t.json ends here: File too large" in error


def test_a_report_that_cannot_be_printed_is_one_sentence_and_2(tiny: Path, tmp_path: Path) -> None:
    picture = tmp_path / "in.png"
    cv2.imwrite(str(picture), stripes())
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [
                *COMMAND,
                "--bundle",
                str(tiny),
                "--classes",
                "red",
                "--source",
                str(picture),
                "--json",
            ],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=100,
        )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "what was to be printed cannot be written (No space left on device)" in line


# Links and names that are taken

FILES = ["o.mp4", "o.avi", "o.png", "o.jsonl", "o.mcap", "o.rrd"]


def needs(name: str) -> None:
    if name.endswith(".rrd"):
        pytest.importorskip("rerun")
    if name.endswith(".mcap"):
        pytest.importorskip("mcap")


@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize("name", FILES)
def test_a_link_that_leads_nowhere_is_not_written_through(
    tmp_path: Path, name: str, live: bool
) -> None:
    needs(name)
    path, target = tmp_path / name, tmp_path / "elsewhere"
    path.symlink_to(target)
    with pytest.raises(SinkError, match="exists; allow it to be replaced with --overwrite"):
        open_sink(str(path), SinkOptions(live=live))
    assert path.is_symlink() and not target.exists()


@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize("name", FILES)
def test_overwriting_a_link_replaces_it_and_keeps_its_target(
    tmp_path: Path, name: str, live: bool
) -> None:
    needs(name)
    path, target = tmp_path / name, tmp_path / "precious"
    target.write_text("precious")
    path.symlink_to(target)
    assert write(str(path), 3, SinkOptions(live=live, overwrite=True)) is not None
    assert target.read_text() == "precious"
    assert not path.is_symlink() and path.stat().st_size > 0


@pytest.mark.parametrize("name", ["o.mp4", "o.png"])
def test_what_appears_meanwhile_is_not_replaced(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    sink = open_sink(str(path))
    sink.write(frame_of(0), result_for(frame_of(0).frame_bgr))
    path.write_text("precious")
    with pytest.raises(SinkError, match="exists; allow it to be replaced"):
        sink.close()
    assert path.read_text() == "precious" and os.listdir(tmp_path) == [name]


def test_a_bundle_is_not_written_through_a_link(tmp_path: Path) -> None:
    link, target = tmp_path / "x.dedos", tmp_path / "target.dedos"
    link.symlink_to(target)
    with pytest.raises(BadInputError, match="already exists; use --overwrite"):
        write_tiny_bundle(link)
    assert not target.exists()


def test_a_trace_is_not_written_through_a_link(tiny: Path, tmp_path: Path) -> None:
    link, target = tmp_path / "t.json", tmp_path / "target"
    link.symlink_to(target)
    assert run_cli(tiny, "--source", RECORDED, "--trace", str(link)) == 2
    assert not target.exists()


def test_a_pipe_is_no_file(tmp_path: Path) -> None:
    path = tmp_path / "o.jsonl"
    os.mkfifo(path)
    with pytest.raises(SinkError, match="is a pipe or device; name a file"):
        open_sink(str(path), SinkOptions(overwrite=True))


# The source itself

SPELLINGS: dict[str, Callable[[Path], Path]] = {
    "itself": lambda source: source,
    "relative": lambda source: Path(os.path.relpath(source)),
    "through its folder": lambda source: source.parent / "x" / ".." / source.name,
    "link": lambda source: linked(source, os.symlink),
    "hard link": lambda source: linked(source, os.link),
}


def linked(source: Path, link: Callable[[Path, Path], None]) -> Path:
    other = source.with_name("other.png")
    link(source, other)
    return other


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("option", ["--output", "--trace"])
def test_the_source_is_not_overwritten_by_any_name(
    tiny: Path, tmp_path: Path, spelling: str, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x").mkdir()
    source = tmp_path / "in.png"
    cv2.imwrite(str(source), stripes())
    before = source.read_bytes()
    name = SPELLINGS[spelling](source)
    code = run_cli(tiny, "--source", str(source), option, str(name), "--overwrite")
    assert code == 2 and "is part of the source" in capsys.readouterr().err
    assert source.read_bytes() == before and name.read_bytes() == before


@pytest.mark.parametrize("kind", ["masks", "overlays"])
@pytest.mark.parametrize("whole", [False, True])
def test_pictures_are_not_replaced_by_what_is_made_of_them(
    tiny: Path, tmp_path: Path, kind: str, whole: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "in.png"
    cv2.imwrite(str(source), stripes())
    before = source.read_bytes()
    read = str(tmp_path) if whole else str(source)
    output = f"{kind}:{tmp_path}"
    assert run_cli(tiny, "--source", read, "--output", output, "--overwrite") == 2
    assert "holds the source" in capsys.readouterr().err
    assert source.read_bytes() == before and os.listdir(tmp_path) == ["in.png"]


def test_a_source_of_several_is_no_output_of_another(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "b.png"
    cv2.imwrite(str(source), stripes())
    before = source.read_bytes()
    code = run_cli(
        tiny,
        "--source",
        "a=scene:street?frames=2&size=48x64",
        "--source",
        f"b={source}",
        "--output",
        str(tmp_path / "{camera}.png"),
        "--overwrite",
    )
    assert code == 2 and "is part of the source" in capsys.readouterr().err
    assert source.read_bytes() == before


# What is there at the end


def test_no_frame_no_file(tmp_path: Path) -> None:
    sink = open_sink(str(tmp_path / "o.mp4"), SinkOptions(live=True))
    sink.close()
    assert sink.written is None and os.listdir(tmp_path) == []


def test_an_old_recording_stays_until_the_first_frame_of_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "o.mp4"
    path.write_text("precious")
    open_sink(str(path), SinkOptions(live=True, overwrite=True)).close()
    assert path.read_text() == "precious"


@pytest.mark.parametrize("name", ["o.mp4", "o.jsonl", "o.mcap", "o.rrd"])
@pytest.mark.parametrize("what", ["removed", "moved"])
def test_a_file_that_was_taken_away_is_said(tmp_path: Path, name: str, what: str) -> None:
    needs(name)
    path = tmp_path / name
    sink = open_sink(str(path), SinkOptions(live=True))
    for number in range(3):
        sink.write(frame_of(number), result_for(frame_of(number).frame_bgr))
    if what == "removed":
        path.unlink()
    else:
        path.rename(tmp_path / "rotated")
        path.write_text("somebody else's")
    with pytest.raises(SinkError, match="was moved or removed while it was written"):
        sink.close()


@pytest.mark.parametrize("kind", ["masks", "overlays"])
def test_a_folder_says_how_many_pictures_are_there(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "o"
    with open_sink(f"{kind}:{folder}") as sink:
        for number in range(5):
            sink.write(frame_of(number), result_for(frame_of(number).frame_bgr))
        suffix = ".png" if kind == "masks" else ".jpg"
        (folder / f"000002{suffix}").unlink()
    assert sink.written is not None and "(4 " in sink.written


@pytest.mark.parametrize("kind", ["masks", "overlays"])
def test_frames_of_one_name_do_not_replace_each_other(tmp_path: Path, kind: str) -> None:
    """A camera that was opened again counts from nothing."""
    folder = tmp_path / "o"
    with open_sink(f"{kind}:{folder}") as sink:
        for number in (0, 1, 0, 1, 2, 0):
            sink.write(frame_of(number), result_for(frame_of(number).frame_bgr))
    stems = sorted(path.stem for path in folder.iterdir() if path.stem != "classes")
    assert stems == ["000000", "000000-2", "000000-3", "000001", "000001-2", "000002-2"]
    assert sink.written is not None and "(6 " in sink.written


def test_pictures_from_before_are_replaced_once(tmp_path: Path) -> None:
    folder = tmp_path / "o"
    for _ in range(2):
        with open_sink(f"masks:{folder}", SinkOptions(overwrite=True)) as sink:
            sink.write(frame_of(0), result_for(frame_of(0).frame_bgr))
    assert sorted(os.listdir(folder)) == ["000000.png", "classes.json", "classes.txt"]
    assert sink.written == f"{folder} (1 label maps)"


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_a_video_that_does_not_fit_is_removed(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = open_sink(str(tmp_path / f"o{suffix}"))
    for number in range(4):
        sink.write(frame_of(number), result_for(frame_of(number).frame_bgr))

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SinkError, match="No space left on device"):
        sink.close()
    assert os.listdir(tmp_path) == [] and sink.written is None


@pytest.mark.parametrize("suffix", [".avi", ".mkv"])
def test_a_video_whose_end_is_missing_is_found_out(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the header announces; here the file is cut behind OpenCV's back."""
    path = tmp_path / f"o{suffix}"
    sink = open_sink(str(path))
    for number in range(40):
        sink.write(frame_of(number), result_for(frame_of(number).frame_bgr))
    writer = sink._writer  # type: ignore[attr-defined]

    class FullDisk:
        def release(self) -> None:
            writer.release()
            (temporary,) = tmp_path.iterdir()
            os.truncate(temporary, temporary.stat().st_size * 2 // 3)

    monkeypatch.setattr(sink, "_writer", FullDisk())
    with pytest.raises(SinkError, match="of 40 frames and was removed; check the free"):
        sink.close()
    assert os.listdir(tmp_path) == []


def test_a_bundle_is_whole_or_not_there_on_a_full_disk(tmp_path: Path) -> None:
    code = f"""
import resource, sys
sys.path.append({str(Path(__file__).parents[1] / "runtime")!r})
from pathlib import Path
from tiny_bundle import write_tiny_bundle
from dedos_deploy.errors import SinkError
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
try:
    write_tiny_bundle(Path({str(tmp_path / "x.dedos")!r}))
except SinkError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert "cannot be written (File too large)" in done.stdout, done.stderr
    assert os.listdir(tmp_path) == []
    with Bundle.open(write_tiny_bundle(tmp_path / "x.dedos")):
        pass


def test_the_report_names_only_what_is_there(
    tiny: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from dedos_deploy.runtime.sinks.files import JsonLines

    first = JsonLines.close

    def close(self: JsonLines) -> None:
        (tmp_path / "o.jsonl").unlink(missing_ok=True)
        first(self)

    monkeypatch.setattr(JsonLines, "close", close)
    code = run_cli(
        tiny,
        "--source",
        RECORDED,
        "--json",
        "--output",
        str(tmp_path / "o.jsonl"),
        "--output",
        str(tmp_path / "o.png"),
    )
    captured = capsys.readouterr()
    assert code == 2 and "was moved or removed" in captured.err
    assert json.loads(captured.out)["written"] == [str(tmp_path / "o.png")]
