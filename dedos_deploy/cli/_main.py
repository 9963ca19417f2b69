"""What every command line shares: parse, run, and turn what the user can act on into an exit code."""

from __future__ import annotations

import argparse
import contextlib
import errno
import importlib
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TextIO, cast

from dedos_deploy.errors import DedosError, OpenCvError, nearest
from dedos_deploy.interrupts import EXIT_INTERRUPTED, SIGNALS, WATCHER, Interrupts, interrupts_taken
from dedos_deploy.threads import limit_libraries
from dedos_deploy.version import __version__

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

EXIT_OK = 0
EXIT_USER_ERROR = 2
EXIT_BROKEN_PIPE = 141
OF_THE_MACHINE = frozenset(
    getattr(errno, name)
    for name in ("EACCES", "EPERM", "EROFS", "ENOSPC", "EDQUOT", "EIO", "ELOOP", "ENAMETOOLONG")
    if hasattr(errno, name)
)
"""What is wrong with a named file is no bug then, wherever in the program it is met."""

OUR_THREADS = "dedos-"


def command_parser(prog: str, description: str, epilog: str) -> argparse.ArgumentParser:
    """Return a parser with --version alone, whose texts keep their line breaks in --help."""
    parser = _Parser(
        prog=prog,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"{prog} {__version__}")
    return parser


class _Gathering(argparse.Action):
    """Keeps the value of an option, and of one that takes several the values of all times it is given."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        _: Any = None,
    ) -> None:
        before = getattr(namespace, self.dest, self.default)
        if self.nargs == "+" and before is not self.default:
            values = [*before, *values]
        setattr(namespace, self.dest, values)


class _Parser(argparse.ArgumentParser):
    """A parser that takes no part of a name for it, gathers lists that are given in several options, names the
    option that was meant, and says when its help cannot be printed, which argparse passes over."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **settings})
        self.register("action", None, _Gathering)

    def error(self, message: str) -> NoReturn:
        _, unknown, given = message.partition("unrecognized arguments: ")
        meant = nearest(re.split("[= ]", given)[0], self._option_string_actions) if unknown else ""
        super().error(message + meant)

    def print_help(self, file: SupportsWrite[str] | None = None) -> None:
        (file or sys.stdout).write(self.format_help())
        sys.stdout.flush()


class _Unheard:
    """stderr whose reader may be gone or whose disk may be full: what cannot be said ends no work."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def run_command(
    build_parser: Callable[[], argparse.ArgumentParser],
    run: Callable[[argparse.Namespace], int],
    argv: Sequence[str] | None = None,
    *,
    owns_process: bool | None = None,
) -> int:
    """Return the exit code of one command line.

    build_parser: returns the parser, importing nothing heavy, so that --help is quick;
    run: does the work and returns its own exit code; argv: arguments, sys.argv[1:] if None;
    owns_process: whether the process ends with this command, as it does by default without `argv`.

    A DedosError becomes one line on stderr and 2, as argparse's own errors do; Ctrl-C becomes 130,
    and so does SIGTERM, so that what is half written is removed as well when a container stops;
    a closed stdout (`| head`) becomes 141. Anything else is a bug and keeps its traceback.
    """
    ends_here = argv is None if owns_process is None else owns_process
    if ends_here:
        _settle_streams()
    parser = build_parser()

    def work() -> int:
        args = parser.parse_args(argv)
        limit_libraries()
        return run(args)

    with interrupts_taken(parser.prog) as interrupts:
        try:
            code = _code_of(parser.prog, work, interrupts)
        except KeyboardInterrupt:
            code = EXIT_INTERRUPTED  # it came while the end was being said
        if ends_here:
            _leave(code, interrupts)
    if ends_here:
        _end_quietly()
    return code


def for_people(args: argparse.Namespace) -> TextIO:
    """Return where to print what people read: stdout, or stderr where `--json` has stdout for itself."""
    return sys.stderr if args.json else sys.stdout


def _settle_streams() -> None:
    """Let a process that was started without standard streams (`>&-`) have them, leading nowhere,
    and let nothing depend on what can be said on stderr.

    The next file that is opened would get their numbers, and with them whatever is printed.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
    sys.stdin = sys.stdin or open(0, closefd=False)
    sys.stdout = sys.stdout or open(1, "w", closefd=False)
    sys.stderr = cast(TextIO, _Unheard(sys.stderr or open(2, "w", closefd=False)))


def _code_of(prog: str, work: Callable[[], int], interrupts: Interrupts) -> int:
    try:
        try:
            with interrupts.translated():
                code = work()
            sys.stdout.flush()
        finally:
            interrupts.defer()  # nothing is left to be interrupted
    except DedosError as error:
        print(f"{prog}: error: {one_line(str(error))}", file=sys.stderr)
        return EXIT_USER_ERROR
    except KeyboardInterrupt as interrupt:
        print(f"\n{prog}: {str(interrupt) or 'interrupted'}", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        _drop_stdout()
        return EXIT_BROKEN_PIPE
    except OSError as error:
        sentence = _machine_fault(error)
        if sentence is None:
            raise
        print(f"{prog}: error: {sentence}", file=sys.stderr)
        return EXIT_USER_ERROR
    except ImportError:
        sentence = _opencv_fault()
        if sentence is None:
            raise
        print(f"{prog}: error: {sentence}", file=sys.stderr)
        return EXIT_USER_ERROR
    return code


def _opencv_fault() -> str | None:
    """Return what is wrong with OpenCV, None if nothing is.

    Much of the package imports it, and only doors that many go through ask first whether they can.
    """
    from dedos_deploy.runtime.opencv import require_opencv

    try:
        require_opencv()
    except OpenCvError as error:
        return one_line(str(error))
    return None


def _machine_fault(error: OSError) -> str | None:
    """Return what is wrong with a named file or with stdout, None for what may well be a bug."""
    if error.filename is not None:
        said = f"{str(error.filename)!r} cannot be used ({error.strerror}); check its permissions and disk"
        return said if error.errno in OF_THE_MACHINE else None
    if not _is_stdout_broken():
        return None
    _drop_stdout()
    return f"what was to be printed cannot be written ({error.strerror}); check where stdout goes"


def _is_stdout_broken() -> bool:
    try:
        print(flush=True)
    except OSError:
        return True
    return False


def _drop_stdout() -> None:
    # Python flushes stdout once more at exit; where that fails it would print a traceback.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _leave(code: int, interrupts: Interrupts) -> None:
    """End a process that cannot be trusted to end, as Python's own end waits for every thread and
    lets every library clean up: one that was interrupted, or has left a thread behind."""
    left = any(
        thread.name.startswith(OUR_THREADS) and thread.name != WATCHER
        for thread in threading.enumerate()
    )
    if interrupts.seen or left:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _end_quietly() -> None:
    """Let a signal end the process without a word while Python takes it down."""
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, lambda *_: os._exit(EXIT_INTERRUPTED))


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
    if argv is None:
        _settle_streams()
    if not words or words[0].startswith("-"):
        return run_command(build_parser, run, words, owns_process=argv is None)
    if words[0] not in verbs:
        hint = nearest(words[0], verbs) or ";"
        print(
            f"{prog}: error: unknown command {words[0]!r}{hint} commands: {', '.join(verbs)}, or "
            "options alone",
            file=sys.stderr,
        )
        return EXIT_USER_ERROR
    module = importlib.import_module(f"dedos_deploy.cli.{verbs[words[0]]}")
    return run_command(module.build_parser, module.run, words[1:], owns_process=argv is None)


def one_line(message: str) -> str:
    """Return `message` with every run of whitespace, line breaks included, as one space.

    >>> one_line("two\\n  lines")
    'two lines'
    """
    return " ".join(message.split())
