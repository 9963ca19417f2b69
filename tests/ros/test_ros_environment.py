"""`.ci/ros` with a Python that writes down what it is asked: what it makes anew, and what it leaves alone."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from ros_runs import ROOT

FAKE = r"""#!/usr/bin/env bash
# Python and uv of an environment.
case "$*" in
  *"import sys, sysconfig, pathlib, venv"*) exit "${NO_HEADERS:-0}" ;;
  "-m venv "*)
    mkdir -p "$3"/{bin,share,lib/python3.11/site-packages}
    cp "$0" "$3/bin/python"; cp "$0" "$3/bin/uv"
    echo /opt/python/cp311-cp311/include/python3.11 > "$3/share/a.cmake" ;;
  "-S -c "*) exit "${OTHER_PYTHON:-0}" ;;
  *purelib*) echo "$(dirname "$(dirname "$0")")/lib/python3.11/site-packages" ;;
  *include*) echo /usr/include/python3.11 ;;
  "cache dir") echo "$CACHE" ;;
  *)
    case "$*" in *colcon*) what=workspace ;; *editable*) what=dedos ;; *uv=*) what=uv ;; *) what=wheels ;; esac
    echo "$what${UV_NO_CACHE:+ without a cache} $PWD" >> "$LOG"
    [ "$what" != "${FAILS:-}" ] || exit 1
    if [ "$what" = workspace ]; then mkdir -p "$(dirname "$0")/../workspace"; fi ;;
esac
"""


@pytest.fixture
def checkouts(tmp_path: Path) -> list[Path]:
    """Two checkouts with a few files, and a `python3` before that of the machine."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python3").write_text(FAKE)
    (tmp_path / "bin/python3").chmod(0o755)
    found = []
    for name in ("one", "two"):
        for place in ("pyproject.toml", "CMakeLists.txt", "dedos_deploy/a.py", "runtime/native/a"):
            path = tmp_path / name / place
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        for place in ("ros2", "tests/ros/vision_msgs", ".ci"):
            (tmp_path / name / place).mkdir(parents=True)
        (tmp_path / name / "ros2/a.py").touch()
        for place in (".ci/environment", ".ci/ros", ".ci/ros-requirements.txt"):
            shutil.copy(ROOT / place, tmp_path / name / place)
        found.append(tmp_path / name)
    return found


def begin(checkout: Path, *folder: Path | str, **given: str) -> subprocess.Popen[str]:
    place = checkout.parent
    environment = {
        **os.environ,
        "PATH": f"{place / 'bin'}:{os.environ['PATH']}",
        "LOG": str(place / "log"),
        "CACHE": str(place / "cache"),
        **given,
    }
    return subprocess.Popen(
        [checkout / ".ci/ros", *(folder or ("env",))],
        env=environment,
        cwd=place,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def made(checkout: Path, *folder: Path | str, fails: bool = False, **given: str) -> list[str]:
    """Return what was asked of Python, with the name of the checkout where it was asked."""
    log = checkout.parent / "log"
    log.write_text("")
    said = begin(checkout, *folder, **given)
    output = said.communicate(timeout=60)[0]
    assert bool(said.returncode) == fails, output
    return log.read_text().replace(f"{checkout.parent}/", "").splitlines()


def test_only_what_changed_is_made_again(checkouts: list[Path]) -> None:
    one, two = checkouts
    assert made(one) == ["uv one", "wheels one", "dedos one", "workspace one"]
    assert (one.parent / "env/setup.sh").is_file() and not (one / "env").exists()
    before = {path: path.stat().st_mtime_ns for path in (one.parent / "env").glob(".*")}
    assert made(one) == []
    assert {path: path.stat().st_mtime_ns for path in (one.parent / "env").glob(".*")} == before
    # Without Python's headers, too: nothing is built.
    assert made(one, NO_HEADERS="1") == []
    (one / "ros2/a.py").write_text("# changed")
    assert made(one) == ["workspace one"]
    assert made(two) == ["dedos two", "workspace two"]
    assert made(one) == ["dedos one", "workspace one"]
    assert made(one, OTHER_PYTHON="1")[:2] == ["uv one", "wheels one"]


def test_an_interrupted_step_is_made_again(checkouts: list[Path]) -> None:
    one = checkouts[0]
    assert made(one, fails=True, FAILS="wheels") == ["uv one", "wheels one"]
    assert made(one, fails=True, FAILS="workspace")[-2:] == ["dedos one", "workspace one"]
    left = one.parent / "env/workspace/half"
    left.parent.mkdir()
    left.touch()
    assert made(one) == ["workspace one"] and not left.exists()


def test_who_uses_an_environment_keeps_another_checkout_from_taking_it(
    checkouts: list[Path],
) -> None:
    one, two = checkouts
    made(one)
    with (one.parent / "env/.owned").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        # Its own checkout's runs go on.
        assert made(one) == []
        waiting = begin(two)
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(0.5)
    assert waiting.communicate(timeout=60)[0] == "" and waiting.returncode == 0


def test_a_cache_that_cannot_be_written_is_done_without(checkouts: list[Path]) -> None:
    assert made(checkouts[0], CACHE="/proc/cache")[1] == "wheels without a cache one"


@pytest.mark.parametrize(
    ("folder", "given", "sentence"),
    [
        ("--help", {}, "usage: .ci/ros FOLDER\n"),
        ("", {}, "usage: .ci/ros FOLDER\n"),
        ("home", {}, "holds something else than an environment of .ci/ros; give an empty or a new"),
        ("new", {"NO_HEADERS": "1", "PATH": "bin:/nowhere"}, "install them (Debian: python3-venv,"),
    ],
)
def test_what_cannot_be_is_said_in_one_sentence(
    checkouts: list[Path], folder: str, given: dict[str, str], sentence: str
) -> None:
    own = checkouts[0].parent / "home/bin"
    own.mkdir(parents=True)
    if "PATH" in given:
        tools = checkouts[0].parent / "bin"
        for name in (
            "bash",
            "env",
            "cat",
            "cut",
            "dirname",
            "find",
            "flock",
            "grep",
            "ls",
            "mkdir",
        ):
            (tools / name).symlink_to(str(shutil.which(name)))
        for name in ("realpath", "rm", "sha256sum", "sort", "touch"):
            (tools / name).symlink_to(str(shutil.which(name)))
        given = {**given, "PATH": str(tools)}
    run = begin(checkouts[0], folder, **given)
    said = run.communicate(timeout=60)[0]
    assert run.returncode in (1, 2) and sentence in said and said.count("\n") == 1
    assert own.is_dir() and not (checkouts[0].parent / "--help").exists()


def test_folders_of_environments_are_found_from_where_one_is(checkouts: list[Path]) -> None:
    made(checkouts[0], "below/env")
    assert (checkouts[0].parent / "below/env/setup.sh").is_file()
