"""Where a run begins and ends: what watches it, what it keeps open, and what is said of it at last."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dedos_deploy.cli._main import EXIT_OK, EXIT_USER_ERROR, one_line
from dedos_deploy.cli._opened import Opened
from dedos_deploy.interrupts import EXIT_INTERRUPTED, Interrupts

if TYPE_CHECKING:
    from dedos_deploy.runtime import Sink, Source, Statistics
    from dedos_deploy.runtime.stages import StageBoard

log = logging.getLogger(__name__)


def watch(args: argparse.Namespace, opened: Opened) -> StageBoard:
    from dedos_deploy.runtime.sources import paths_of
    from dedos_deploy.runtime.stages import StageBoard, TraceFile, Watchdog

    trace = None
    if args.trace is not None:
        read = [path for uri in _sources(args).values() for path in paths_of(uri)]
        trace = TraceFile(Path(args.trace), overwrite=args.overwrite, protected=read)
        opened.enter(args.trace, trace)
    board = StageBoard(trace)
    if args.watchdog:
        opened.enter("watchdog", Watchdog(board, limit_s=args.watchdog))
    return board


def _sources(args: argparse.Namespace) -> dict[str, str]:
    """Return the addresses of all sources by name."""
    from dedos_deploy.cli.run_cameras import names_of

    return names_of(args.source if args.camera is None else [f"camera:{args.camera}"])


def tell_what_is_left(interrupts: Interrupts, stages: StageBoard, opened: Opened) -> None:
    """Let the last words of a run that does not end name what hangs."""
    interrupts.left = lambda: [
        *map(str, stages.busy_longer_than(0.0)),
        *(f"closing of {name}" for name in opened.closing()),
    ]


def exit_code(
    failures: Sequence[str], stages: StageBoard, opened: Opened, interrupts: Interrupts
) -> int:
    """Say what failed although the run went on, and return the exit code."""
    if stages.trace_error is not None:
        failures = [*failures, stages.trace_error]
    for failure in failures:
        log.error("%s", one_line(failure))
    if opened.left:
        log.warning("not completed and left behind: %s", ", ".join(opened.left))
    if failures:
        return EXIT_USER_ERROR
    return EXIT_INTERRUPTED if interrupts.seen else EXIT_OK


def keep(opened: Opened, sink: Sink) -> Sink:
    """Keep an open sink to be closed by its address, and return it."""
    return opened.enter(sink.uri, sink, on_this_thread=sink.on_callers_thread)


def report(
    args: argparse.Namespace, source: Source, sinks: Sequence[Sink], statistics: Statistics
) -> None:
    """Print the summary of a run with one source. sinks: those that are complete."""
    written = [sink.written for sink in sinks if sink.written is not None]
    for warning in source.warnings:
        log.warning("%s", warning)
    if args.json:
        numbers = {
            "source": source.source_id,
            **statistics.to_dict(),
            "written": written,
            "warnings": list(source.warnings),
        }
        print(json.dumps(numbers, ensure_ascii=False))
        return
    from dedos_deploy.cli._status import summary_table

    print(summary_table(source.source_id, statistics, written))
