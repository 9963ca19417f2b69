"""What every command line shares: exit codes, and nothing left behind when it is stopped."""

from __future__ import annotations

import argparse
import os
import signal
from importlib.metadata import EntryPoint, distribution

import pytest

from dedos_deploy.cli import doctor as doctor_cli
from dedos_deploy.cli._main import command_parser, run_command
from dedos_deploy.errors import BadInputError
from dedos_deploy.version import __version__


def command(run: object) -> int:
    return run_command(lambda: argparse.ArgumentParser(prog="dedos-x"), run, [])  # type: ignore[arg-type]


def test_a_user_error_is_one_line_and_2(capsys: pytest.CaptureFixture[str]) -> None:
    def run(args: argparse.Namespace) -> int:
        raise BadInputError("first\n  second")

    assert command(run) == 2
    assert capsys.readouterr().err == "dedos-x: error: first second\n"


def test_a_bug_keeps_its_traceback() -> None:
    def run(args: argparse.Namespace) -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        command(run)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopping_unwinds_and_gives_130(number: signal.Signals) -> None:
    cleaned = []

    def run(args: argparse.Namespace) -> int:
        try:
            os.kill(os.getpid(), number)
            signal.pause()
        finally:
            cleaned.append(True)
        return 0

    before = signal.getsignal(number)
    assert command(run) == 130
    assert cleaned == [True]
    assert signal.getsignal(number) is before


@pytest.mark.parametrize(
    "entry", distribution("dedos-deploy").entry_points.select(group="console_scripts")
)
def test_every_command_says_its_version(
    entry: EntryPoint, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        entry.load()(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"{entry.name} {__version__}\n"


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("--wieghts", "unrecognized arguments: --wieghts, did you mean '--weights'?\n"),
        ("--wieghts=all", "unrecognized arguments: --wieghts=all, did you mean '--weights'?\n"),
        ("--weight=all", "unrecognized arguments: --weight=all, did you mean '--weights'?\n"),
        ("--zzz", "unrecognized arguments: --zzz\n"),
    ],
)
def test_an_option_is_named_that_was_meant(
    typed: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        doctor_cli.main([typed])
    assert ended.value.code == 2
    assert capsys.readouterr().err.endswith(f"dedos-doctor: error: {said}")


def test_options_of_further_commands_are_written_out_too() -> None:
    parser = command_parser("dedos-x", "", "")
    parser.add_subparsers().add_parser("frame").add_argument("--frames")
    assert parser.parse_args(["frame", "--frames", "3"]).frames == "3"
    with pytest.raises(SystemExit):
        parser.parse_args(["frame", "--fram", "3"])


def test_a_list_may_be_given_in_several_options() -> None:
    parser = command_parser("dedos-x", "", "")
    group = parser.add_argument_group("data")
    group.add_argument("--data", nargs="+", default=["demo"])
    group.add_argument("--split", default="val")
    assert parser.parse_args(["--data", "a", "--data", "b", "c"]).data == ["a", "b", "c"]
    assert parser.parse_args(["--data", "d"]).data == ["d"]
    assert parser.parse_args([]).data == ["demo"]
    assert parser.parse_args(["--split", "train", "--split", "test"]).split == "test"
