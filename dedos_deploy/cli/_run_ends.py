"""Where a run begins and ends: what watches it, what it keeps open, and what is said of it at last."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from dedos_deploy.cli._main import EXIT_OK, EXIT_USER_ERROR, one_line
from dedos_deploy.cli._opened import Opened
from dedos_deploy.interrupts import EXIT_INTERRUPTED, Interrupts

if TYPE_CHECKING:
    from dedos_deploy.runtime import Sink, Statistics
    from dedos_deploy.runtime.flow import CameraReport, FeedReport
    from dedos_deploy.runtime.flow.stages import StageBoard

log = logging.getLogger(__name__)


def watch(args: argparse.Namespace, opened: Opened) -> StageBoard:
    from dedos_deploy.cli.run_cameras import sources_of
    from dedos_deploy.runtime.flow.stages import StageBoard, TraceFile, Watchdog
    from dedos_deploy.runtime.sources.opening import paths_of

    trace = None
    if args.trace is not None:
        read = [path for uri in sources_of(args).values() for path in paths_of(uri)]
        trace = TraceFile(Path(args.trace), overwrite=args.overwrite, protected=read)
        opened.enter(args.trace, trace)
    board = StageBoard(trace)
    if args.watchdog:
        opened.enter("watchdog", Watchdog(board, limit_s=args.watchdog))
    return board


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


def lost(reports: Sequence[CameraReport]) -> list[str]:
    """Return a sentence for every camera that was lost."""
    from dedos_deploy.runtime.flow import SourceState

    return [
        f"camera {report.name} was lost: {report.source.error}"
        for report in reports
        if report.source.state is SourceState.LOST
    ]


def report(
    args: argparse.Namespace,
    reports: Sequence[CameraReport],
    outcome: str,
    whole: Sequence[Sink],
    failures: Mapping[str, Exception],
) -> None:
    """Print the summary. outcome: of the run; whole: sinks that are complete; failures: of the others,
    by address."""
    from dedos_deploy.cli.run_cameras import is_alone

    if is_alone(args):
        (alone,) = reports
        _report_one(args, alone.source, replace(alone.results, outcome=outcome), whole)
        return
    reports = _with_failures(reports, failures)
    if args.json:
        cameras = {"cameras": [report.to_dict() for report in reports]}
        print(json.dumps(cameras, ensure_ascii=False))
    else:
        print(_table(reports))


def _report_one(
    args: argparse.Namespace, source: FeedReport, statistics: Statistics, sinks: Sequence[Sink]
) -> None:
    from dedos_deploy.cli.run_cameras import sources_of
    from dedos_deploy.runtime.uri import redact

    (uri,) = sources_of(args).values()
    source_id = source.source_id or redact(uri)
    written = [
        sink.written if sink.codec is None else f"{sink.written} in {sink.codec}"
        for sink in sinks
        if sink.written is not None
    ]
    for warning in source.warnings:
        log.warning("%s", warning)
    if args.json:
        numbers = {
            "source": source_id,
            **statistics.to_dict(),
            "written": written,
            "warnings": list(source.warnings),
        }
        print(json.dumps(numbers, ensure_ascii=False))
        return
    from dedos_deploy.cli._status import summary_table

    print(summary_table(source_id, statistics, written))


def _with_failures(
    reports: Sequence[CameraReport], failed: Mapping[str, Exception]
) -> list[CameraReport]:
    """Return reports that also say which outputs could not be completed. failed: by address."""
    return [
        replace(
            report,
            outputs={
                uri: error or (str(failed[uri]) if uri in failed else None)
                for uri, error in report.outputs.items()
            },
        )
        for report in reports
    ]


def _table(reports: Sequence[CameraReport]) -> str:
    """Return the table of several cameras."""
    lines = [
        f"{'camera':12} {'state':10} {'frames':>7} {'fps':>6} {'p50 ms':>7} {'p99 ms':>7}  dropped"
    ]
    for report in reports:
        numbers = report.results
        drops = ", ".join(f"{count} {cause}" for cause, count in numbers.drops.items() if count)
        lines.append(
            f"{report.name:12} {report.source.state.value:10} {numbers.frames:7d} {numbers.fps:6.1f} "
            f"{numbers.age_p50_ms:7.0f} {numbers.age_p99_ms:7.0f}  {drops or '0'}"
        )
        if report.source.error:
            lines.append(f"{'':12} {report.source.error}")
        lines += [f"{'':12} {uri}: {error}" for uri, error in report.outputs.items() if error]
    return "\n".join(lines)
