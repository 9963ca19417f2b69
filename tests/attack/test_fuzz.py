"""benchmarks/fuzz.py: nothing gets through here, and what does elsewhere is found and named."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
PLANTED = Path(__file__).with_name("planted_faults.py")
CASES = {
    "bundles": 100,
    "onnx": 100,
    "recordings": 200,
    "pictures": 320,
    "native": 600,
    "api": 50,
    "checkpoints": 80,
}
"""Of each subject, so many that all together take half a minute."""

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def run(
    script: Path, *arguments: object, timeout_s: float = 300
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(script), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )


@pytest.mark.parametrize("subject", CASES)
def test_nothing_gets_through(subject: str, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    done = run(
        BENCHMARKS / "fuzz.py",
        "--only",
        subject,
        "--cases",
        CASES[subject],
        "--seed",
        "1",
        "--json",
        report,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    counts = json.loads(report.read_text())["subjects"][subject]
    assert counts["findings"] == [] and counts["tried"] == CASES[subject] and counts["seeds"] >= 2
    # Damage that is always refused, or never, is not the damage that finds something.
    refused = sum(counts["refused"].values())
    assert counts["accepted"] > 0 and refused > 0
    assert counts["accepted"] + refused == counts["tried"]


# That it can find something


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str, Path]:
    """Counts of subjects with planted faults, what was printed, and the folder of kept inputs."""
    folder = tmp_path_factory.mktemp("planted")
    report = folder / "report.json"
    done = run(
        PLANTED,
        "--minutes",
        "0.001",
        "--json",
        report,
        "--keep",
        folder,
        "--only",
        ",".join((*KINDS, "accepts", "refuses")),
    )
    assert done.returncode == 1, done.stderr
    return json.loads(report.read_text())["subjects"], done.stdout, folder


KINDS = {
    "raises": ("traceback", "TypeError"),
    "panics": ("traceback", "Panic"),
    "hangs": ("hang", "no end"),
    "segv": ("crash", "SIGSEGV"),
    "aborts": ("crash", "SIGABRT"),
    "leaves": ("crash", "exit 3"),
    "fills": ("memory", "peak"),
    "asks": ("memory", "MemoryError"),
    "wrong": ("result", "Misbehaved"),
    "talks": ("message", "BadInputError"),
}


@pytest.mark.parametrize("fault", KINDS)
def test_a_planted_fault_is_found_and_named(
    fault: str, planted: tuple[dict[str, Any], str, Path]
) -> None:
    subjects, printed, folder = planted
    counts = subjects[fault]
    (finding,) = counts["findings"]
    kind, error = KINDS[fault]
    assert finding["kind"] == kind and finding["error"].endswith(error)
    assert counts["found"][kind] == counts["tried"] == finding["times"]
    assert f"{fault}: {kind}, " in printed and f"--seed 0 --only {fault} --case 0" in printed
    assert (folder / f"{fault}-0-0" / "input.txt").is_file()


@pytest.mark.parametrize("fault", ["raises", "hangs", "segv"])
def test_a_finding_is_repeated_as_it_says(
    fault: str, planted: tuple[dict[str, Any], str, Path]
) -> None:
    subjects, _, folder = planted
    (finding,) = subjects[fault]["findings"]
    again = run(PLANTED, *finding["repeat"].split(), "--keep", folder / "again")
    assert again.returncode == 1 and f"case 0 of {fault}: {KINDS[fault][0]}" in again.stdout
    inputs = [one / f"{fault}-0-0" / "input.txt" for one in (folder, folder / "again")]
    assert inputs[0].read_text() == inputs[1].read_text()


def test_where_it_failed_is_a_line_of_the_package(
    planted: tuple[dict[str, Any], str, Path],
) -> None:
    (finding,) = planted[0]["raises"]["findings"]
    assert finding["where"].startswith("runtime/sources/images.py ")


def test_what_is_no_fault_is_none() -> None:
    done = run(PLANTED, "--minutes", "0.001", "--only", "accepts,refuses")
    assert done.returncode == 0, done.stdout
    assert "BadInputError" in done.stdout and "again:" not in done.stdout


def test_a_subject_that_dies_of_everything_ends_in_its_time() -> None:
    done = run(PLANTED, "--minutes", "0.005", "--only", "segv", timeout_s=60)
    assert done.returncode == 1 and "crash, SIGSEGV" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "bad-seeds"], "not even this"),
        (["--only", "pictures"], "unknown subject 'pictures'; choose from accepts, "),
        (["--only", "accepts,refuses", "--case", "1"], "--case needs one subject"),
        (["--minutes", "0"], "'0' is no finite number above 0"),
        (["--json", "nowhere/report.json"], "create it first"),
    ],
)
def test_what_it_cannot_do_is_said(arguments: list[str], message: str) -> None:
    done = run(PLANTED, *arguments)
    assert done.returncode == 2 and message in done.stderr


@pytest.mark.parametrize("asked_by", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_prints_what_there_is_and_leaves_nothing_behind(
    asked_by: signal.Signals, tmp_path: Path
) -> None:
    process = subprocess.Popen(
        [sys.executable, str(PLANTED), "--minutes", "5", "--only", "accepts"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert process.stderr is not None
    assert "accepts" in process.stderr.readline()
    time.sleep(1.0)
    children = children_of(process.pid)
    process.send_signal(asked_by)
    printed, said = process.communicate(timeout=30)
    assert process.returncode == 130 and "Traceback" not in said
    assert int(printed.splitlines()[1].split()[1]) > 0
    assert not list(tmp_path.iterdir())
    assert children and not [child for child in children if Path(f"/proc/{child}").exists()]


def children_of(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(number) for number in text.split()]


# That a case is a function of its seed and number


MAKE = """
import sys
from pathlib import Path
import fuzz
from fuzzing.campaign import Campaign
from fuzzing.subject import random_of
place = Path(sys.argv[1])
for name in sys.argv[2:]:
    subject = fuzz.SUBJECTS[name]()
    Campaign(subject, 5, place / name).prepare()
    subject.open(place / name / "seeds")
    for case in range(12):
        folder = place / "kept" / f"{name}-{case}"
        folder.mkdir(parents=True)
        subject.keep(subject.make(random_of(5, name, case), folder), folder)
    subject.close()
"""


def start_making(folder: Path, hash_seed: str) -> subprocess.Popen[bytes]:
    """Start a fresh process that makes inputs of every subject."""
    return subprocess.Popen(
        [sys.executable, "-c", MAKE, str(folder), *CASES],
        env={**os.environ, "PYTHONPATH": str(BENCHMARKS), "PYTHONHASHSEED": hash_seed},
    )


def digests(folder: Path) -> dict[str, str]:
    """Return the digest of every input that was made, by its name."""
    return {case.name: tree_digest(case) for case in sorted((folder / "kept").iterdir())}


def tree_digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        content = b""
        if path.is_symlink():
            content = os.readlink(path).encode()
        elif path.is_file():
            content = path.read_bytes()
        digest.update(f"{path.relative_to(folder)} {path.lstat().st_mode} {len(content)}".encode())
        digest.update(content)
    return digest.hexdigest()


def test_a_case_is_the_same_in_every_run(tmp_path: Path) -> None:
    folders = tmp_path / "one", tmp_path / "two"
    makers = [start_making(folder, str(number)) for number, folder in enumerate(folders)]
    assert [maker.wait(300) for maker in makers] == [0, 0]
    one, two = map(digests, folders)
    assert len(one) == 12 * len(CASES) and one == two
    # Inputs that happen to be alike would prove nothing.
    assert len(set(one.values())) > 0.9 * len(one)
