"""What every command line shares: parse, run, and turn what the user can act on into an exit code."""

from __future__ import annotations

import argparse
import importlib
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType

from dedos_deploy.errors import DedosError, nearest

EXIT_OK = 0
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141


def run_command(
    build_parser: Callable[[], argparse.ArgumentParser],
    run: Callable[[argparse.Namespace], int],
    argv: Sequence[str] | None = None,
) -> int:
    """Return the exit code of one command line.

    build_parser: returns the parser, importing nothing heavy, so that --help is quick;
    run: does the work and returns its own exit code; argv: arguments, sys.argv[1:] if None.

    A DedosError becomes one line on stderr and 2, as argparse's own errors do; Ctrl-C becomes 130,
    and so does SIGTERM, so that what is half written is removed as well when a container stops;
    a closed stdout (`| head`) becomes 141. Anything else is a bug and keeps its traceback.
    """
    parser = build_parser()
    args = parser.parse_args(argv)
    try:
        with _terminated_as_interrupted():
            code = run(args)
        sys.stdout.flush()
    except DedosError as error:
        print(f"{parser.prog}: error: {one_line(str(error))}", file=sys.stderr)
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        print(f"\n{parser.prog}: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # Python flushes stdout once more at exit; on a closed pipe that would print a traceback.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    return code


def run_verb(
    prog: str,
    verbs: Mapping[str, str],
    build_parser: Callable[[], argparse.ArgumentParser],
    run: Callable[[argparse.Namespace], int],
    argv: Sequence[str] | None,
) -> int:
    """Return the exit code of a command line with further commands, `PROG VERB ...`.

    verbs: module in this package of each further command, which has `build_parser` and `run`;
    build_parser, run: of the command line that starts with an option, or is empty.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0].startswith("-"):
        return run_command(build_parser, run, words)
    if words[0] not in verbs:
        hint = nearest(words[0], verbs) or ";"
        print(f"{prog}: error: unknown command {words[0]!r}{hint} commands: {', '.join(verbs)}, or "
              "options alone", file=sys.stderr)  # fmt: skip
        return EXIT_USER_ERROR
    module = importlib.import_module(f"dedos_deploy.cli.{verbs[words[0]]}")
    return run_command(module.build_parser, module.run, words[1:])


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def one_line(message: str) -> str:
    """Return `message` with every run of whitespace, line breaks included, as one space.

    >>> one_line("two\\n  lines")
    'two lines'
    """
    return " ".join(message.split())


def size_hw(text: str) -> tuple[int, int]:
    """Return (height, width) of `HxW`, as an argparse type.

    >>> size_hw("240x320")
    (240, 320)
    """
    match = re.fullmatch(r"0*([1-9]\d{0,4})x0*([1-9]\d{0,4})", text.strip().lower(), re.ASCII)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size; write HEIGHTxWIDTH, as 240x320")
    return int(match[1]), int(match[2])
