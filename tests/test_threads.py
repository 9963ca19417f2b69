"""No more threads than a container's share of the processors has use for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dedos_deploy import threads
from dedos_deploy.cli._main import command_parser, run_command
from dedos_deploy.runtime.engines.onnx_runtime import session_options
from dedos_deploy.threads import usable_cores, usable_threads

V1 = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
V2 = ("cpu.max",)


class Groups:
    """Control groups of a pretended machine with eight cores."""

    def __init__(self, folder: Path) -> None:
        self.top = folder / "cgroup"
        self._proc = folder / "proc"
        self._proc.mkdir()
        self.top.mkdir()

    def mount(self, kind: str, path: str, *, root: str = "/") -> None:
        """Mount what `root` and below hold of a hierarchy in which this process is at `path`."""
        options = "rw,nsdelegate" if kind == "cgroup2" else "rw,cpu,cpuacct"
        line = f"31 23 0:28 {root} {self.top} rw,nosuid shared:9 - {kind} none {options}\n"
        (self._proc / "mountinfo").write_text(f"21 1 8:1 / / rw - ext4 /dev/sda rw\n{line}")
        names = "0:" if kind == "cgroup2" else "4:cpu,cpuacct"
        (self._proc / "cgroup").write_text(f"9:memory:/elsewhere\n{names}:{path}\n")

    def limit(self, path: str, *numbers: str) -> None:
        folder = self.top / path
        folder.mkdir(parents=True, exist_ok=True)
        if len(numbers) == 1:
            (folder / V2[0]).write_text(numbers[0] + "\n")
        else:
            for name, number in zip(V1, numbers, strict=True):
                (folder / name).write_text(number + "\n")


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Groups:
    made = Groups(tmp_path)
    monkeypatch.setattr(threads, "PROC", tmp_path / "proc")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    for variable in threads.LIBRARY_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    return made


@pytest.mark.parametrize(
    ("numbers", "cores"),
    [
        (("50000 100000",), 1),
        (("150000 100000",), 2),
        (("max 100000",), 8),
        (("1600000 100000",), 8),
        (("50000", "100000"), 1),
        (("-1", "100000"), 8),
        (("0 0",), 8),
        (("what is this",), 8),
    ],
)
def test_a_quota_is_rounded_up_to_cores(
    groups: Groups, numbers: tuple[str, ...], cores: int
) -> None:
    groups.mount("cgroup2" if len(numbers) == 1 else "cgroup", "/app")
    groups.limit("app", *numbers)
    assert usable_cores() == cores


def test_the_tightest_of_nested_groups_counts(groups: Groups) -> None:
    groups.mount("cgroup2", "/pod/app/worker")
    groups.limit("pod", "200000 100000")
    groups.limit("pod/app", "700000 100000")
    groups.limit("pod/app/worker", "max 100000")
    groups.limit("other", "1000 100000")
    assert usable_cores() == 2


@pytest.mark.parametrize(
    ("path", "root"),
    [("/docker/0a1b", "/docker/0a1b"), ("/docker/0a1b", "/elsewhere"), ("/", "/"), ("/../..", "/")],
)
def test_a_container_that_sees_only_its_own_group(groups: Groups, path: str, root: str) -> None:
    groups.mount("cgroup", path, root=root)
    groups.limit(".", "250000", "100000")
    assert usable_cores() == 3


def test_the_binding_to_cores_still_counts(groups: Groups, monkeypatch: pytest.MonkeyPatch) -> None:
    groups.mount("cgroup2", "/app")
    groups.limit("app", "300000 100000")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {5, 7})
    assert usable_cores() == 2


def test_engines_and_native_code_start_one_thread_on_half_a_core(groups: Groups) -> None:
    assert usable_cores() == 8  # files of another system, or none
    groups.mount("cgroup2", "/app")
    groups.limit("app", "50000 100000")
    assert session_options().intra_op_num_threads == session_options(6).intra_op_num_threads == 1
    assert usable_threads() == usable_threads(6) == 1


@pytest.mark.parametrize(("quota", "said"), [("150000 100000", "2"), ("max 100000", None)])
def test_commands_tell_libraries_that_know_no_quotas(
    groups: Groups, monkeypatch: pytest.MonkeyPatch, quota: str, said: str | None
) -> None:
    groups.mount("cgroup2", "/app")
    groups.limit("app", quota)
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    seen: dict[str, str | None] = {}

    def look(_: object) -> int:
        seen.update({name: os.environ.get(name) for name in threads.LIBRARY_VARIABLES})
        return 0

    # Set once more, so that what the command sets is undone after the test.
    for variable in threads.LIBRARY_VARIABLES[1:]:
        monkeypatch.setenv(variable, "")
        monkeypatch.delenv(variable)
    assert run_command(lambda: command_parser("dedos-test", "", ""), look, []) == 0
    assert seen.pop("OMP_NUM_THREADS") == "5"  # the user's own
    assert set(seen.values()) == {said}
