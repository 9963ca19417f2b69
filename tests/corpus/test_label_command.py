"""dedos-label from end to end: errors that end nothing, kills, and the proof of what is there."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from corpus_helpers import film

from dedos_deploy.cli.label import main
from dedos_deploy.corpus import open_corpus
from dedos_deploy.corpus.records import part_name, write_part

FRAMES = 400
PICTURE = "scene:street?frames=1"


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "dedos_deploy.cli.label", *words]


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory, bundle: str) -> Path:
    """A data set of a video in shards of 10 frames, made by a run that was killed and another one."""
    folder = tmp_path_factory.mktemp("labelled")
    words = [str(film(folder / "film.avi", FRAMES)), "--classes", "blue,green", "--bundle", bundle]
    words += ["--output", str(folder / "out"), "--shard-frames", "10", "--quiet"]
    killed = subprocess.Popen(command(*words, "--workers", "2"), start_new_session=True)
    _wait_for_a_part(folder / "out", killed)
    # The process alone: its workers have to notice by themselves.
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    _wait_until_all_ended(killed.pid, seconds=30)
    assert main(["verify", str(folder / "out"), "--quiet"]) == 1
    assert main([*words, "--workers", "1"]) == 0
    return folder / "out"


def _wait_for_a_part(output: Path, run: subprocess.Popen[str]) -> None:
    until_s = time.monotonic() + 60
    while not list(output.glob("labels/part-*.parquet")) and time.monotonic() < until_s:
        assert run.poll() is None
        time.sleep(0.005)


def _wait_until_all_ended(leader: int, *, seconds: float) -> None:
    """Wait for the last process of a session: one that closed its files may still give memory back."""
    until_s = time.monotonic() + seconds
    while _session(leader) and time.monotonic() < until_s:
        time.sleep(0.02)
    assert not _session(leader)


def _session(leader: int) -> list[int]:
    """Return the processes of a session that still run."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == leader and fields[0] != "Z":
            found.append(int(entry.parent.name))
    return found


def test_what_was_killed_goes_on_and_every_frame_is_there_once(
    labelled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert [row.frame for row in open_corpus(labelled)] == list(range(FRAMES))
    assert not [name for name in os.listdir(labelled / "labels") if name.startswith(".")]
    assert main(["verify", str(labelled), "--json", "--quiet"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["frames"], said["missing"], said["duplicates"], said["wrong"]) == (FRAMES, 0, 0, 0)


def test_a_run_that_was_done_does_nothing_and_other_words_are_refused(
    labelled: Path,
    bundle: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # As of --output=~/out, in which shells leave the tilde to programs.
    monkeypatch.setenv("HOME", str(labelled.parent))
    words = [str(labelled.parent / "film.avi"), "--output=~/out", "--bundle", bundle]
    words += ["--quiet", "--json", "--classes"]
    assert main([*words, "blue,green"]) == 0
    assert json.loads(capsys.readouterr().out)["frames"] == 0
    assert main([*words, "blue"]) == 2
    assert "labelled with other words (blue, green); give the same" in capsys.readouterr().err
    assert main([*words, "blue,green", "--tiles", "2x2"]) == 2
    assert "tiles" in capsys.readouterr().err


def test_verify_names_what_is_missing_double_or_wrong(
    labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    shutil.copytree(labelled, output)
    rows = list(open_corpus(output))
    (output / part_name(0)).unlink()
    shutil.copy(output / part_name(1), output / "labels/copy.parquet")
    damaged = {**vars(rows[20]), "label_map_png": b"no PNG"}
    damaged.pop("label_map", None)
    other = {**vars(rows[21]), "words_sha256": "f" * 64}
    counts = {**vars(rows[22]), "counts": (1,), "class_ids": (0,)}
    changed = [type(rows[0])(**values) for values in (damaged, other, counts)]
    write_part(output / part_name(2), 2, [*changed, *rows[24:30]])
    write_part(output / "labels/part-000099.parquet", 99, rows[:1])
    (output / part_name(3)).write_bytes(b"PAR1")
    assert main(["verify", str(output), "--quiet"]) == 1
    text = capsys.readouterr().out
    for said in (
        "shard 0 is not labelled: 'labels/part-000000.parquet' is missing",
        "#10' is there twice, the second time in 'labels/part-000001.parquet'; remove that",
        "#20' in 'labels/part-000002.parquet': the label map of",
        "#21' in 'labels/part-000002.parquet': labelled with other words (ffffffffffff)",
        "#22' in 'labels/part-000002.parquet': its counts are not those of its label map",
        "film.avi' is missing from shard 2",
        "part 'labels/part-000099.parquet' is of shard 99, and the manifest has no such; remove it",
        "part-000003.parquet' is damaged",
        "shard 3 is not labelled",
        f": {FRAMES - 21} frames, 21 missing, 10 double, 4 wrong, 0 could not be read",
    ):
        assert said in text, said


def test_what_cannot_be_read_ends_nothing_and_is_told(
    pictures: Path, bundle: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    (tmp_path / "pictures/broken.tar").write_bytes(b"no tar")
    words = [str(pictures), "--classes", "blue", "--output", str(output), "--workers", "1"]
    words += ["--bundle", bundle]
    assert main([*words, "--quiet"]) == 3
    said = capfd.readouterr()
    assert ": 4 frames labelled, " in said.out
    assert f"warning: 2 could not be read, see errors.jsonl in {output}" in said.err
    errors = [json.loads(line) for line in (output / "errors.jsonl").read_text().splitlines()]
    assert [Path(error["source"]).name for error in errors] == ["broken.tar", "10.png"]
    assert "tar '" in errors[0]["error"] and "is damaged" in errors[1]["error"]
    assert main(["verify", str(output), "--quiet"]) == 0
    assert main([*words, "--quiet"]) == 3  # said again, though nothing was left to do


def test_ctrl_c_drops_what_is_at_work_and_says_how_to_go_on(bundle: str, tmp_path: Path) -> None:
    output = tmp_path / "out"
    words = command(str(film(tmp_path / "film.avi", 5000)), "--classes", "blue", "--quiet")
    words += ["--output", str(output), "--workers", "1", "--shard-frames", "20", "--bundle", bundle]
    run = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, start_new_session=True)
    _wait_for_a_part(output, run)
    os.killpg(run.pid, signal.SIGINT)  # as a terminal does, to all of them
    _, said = run.communicate(timeout=20)
    assert run.returncode == 130
    _wait_until_all_ended(run.pid, seconds=5)
    assert "of 250 shards are labelled, and the same command goes on from there" in said
    assert "Traceback" not in said
    assert not [name for name in os.listdir(output / "labels") if name.startswith(".")]


def test_in_the_background_of_a_script_sigterm_ends_it_with_its_worker(
    bundle: str, tmp_path: Path
) -> None:
    """There a shell has it ignore Ctrl-C, which its worker inherits."""
    output = tmp_path / "out"
    words = command(str(film(tmp_path / "film.avi", 5000)), "--classes", "blue", "--quiet")
    words += ["--output", str(output), "--workers", "1", "--shard-frames", "20", "--bundle", bundle]
    script = ["sh", "-c", 'trap "" INT; exec "$@"', "sh", *words]
    run = subprocess.Popen(script, stderr=subprocess.PIPE, text=True, start_new_session=True)
    _wait_for_a_part(output, run)
    os.killpg(run.pid, signal.SIGINT)
    time.sleep(0.5)
    assert run.poll() is None
    run.terminate()
    _, said = run.communicate(timeout=20)
    assert run.returncode == 130 and "the same command goes on from there" in said
    _wait_until_all_ended(run.pid, seconds=5)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nothing.mp4"], "nothing.mp4' does not exist; give a picture"),
        (["0"], "'0' is live and has no end"),
        (["--every", "0", PICTURE], "--every must be at least 1, not 0"),
        (["--max-frames", "0", PICTURE], "--max-frames must be at least 1, not 0"),
        (["--shard-frames", "0", PICTURE], "--shard-frames must be at least 1, not 0"),
        (["--workers", "0", PICTURE], "--workers must be at least 1, not 0"),
        (["--threads", "0", PICTURE], "threads must be at least 1, not 0"),
        ([PICTURE, PICTURE], "is named twice by the inputs"),
        (["--threshold", "2", PICTURE], "threshold must lie in [0, 1], not 2.0"),
        (["--tiles", "265", PICTURE], "tiles 265 are a stride longer than 264 pixels"),
        (["--engine", "trt", PICTURE], "GPU"),
    ],
)
def test_wrong_arguments_are_one_sentence_and_write_nothing(
    words: list[str], message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    assert main([*words, "--classes", "road", "--output", str(output), "--quiet"]) == 2
    said = capfd.readouterr().err
    assert message in said and said.count("\n") == 1 and not output.exists()


def test_an_output_that_would_destroy_its_input_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("x")
    for output, message in ((tmp_path / "file", "is a file; name a folder"),):
        assert main([PICTURE, "--classes", "road", "--output", str(output)]) == 2
        assert message in capsys.readouterr().err
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/a.parquet").write_bytes(b"x")
    words = [str(tmp_path / "labels/a.parquet"), "--classes", "road", "--output", str(tmp_path)]
    assert main(words) == 2
    assert "which would be lost; choose another name" in capsys.readouterr().err
