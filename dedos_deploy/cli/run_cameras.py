"""dedos-run with several sources, or with a page to watch them: cameras on one engine."""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from dedos_deploy.errors import BadInputError

if TYPE_CHECKING:
    from dedos_deploy.cli._opened import Opened
    from dedos_deploy.runtime import Segmenter, SegmenterView, Sink, Source
    from dedos_deploy.runtime.cameras import Camera, CameraReport, Fleet
    from dedos_deploy.runtime.serving.guard import Access
    from dedos_deploy.runtime.stages import StageBoard
    from dedos_deploy.vocabulary import Vocabulary

log = logging.getLogger(__name__)

DEFAULT_ADDRESS = "127.0.0.1:8080"
PLACE = "{camera}"
TOKEN_VARIABLE = "DEDOS_TOKEN"
_NAMED = re.compile(r"([A-Za-z0-9_-]{1,40})=(.+)", re.DOTALL)


def names_of(sources: Sequence[str]) -> dict[str, str]:
    """Return addresses by name: `gate=rtsp://…` names itself, others are camera1, camera2, ...

    >>> names_of(["gate=rtsp://host/live", "0"])
    {'gate': 'rtsp://host/live', 'camera2': '0'}
    """
    found: dict[str, str] = {}
    for number, text in enumerate(sources, start=1):
        match = None if os.path.exists(text) else _NAMED.fullmatch(text)
        name, uri = (match[1], match[2]) if match else (f"camera{number}", text)
        if name in found:
            raise BadInputError(f"two sources are called {name!r}; give each a name of its own")
        found[name] = uri
    return found


def access_of(address: str, token: str | None) -> Access:
    """Return where to serve. address: HOST:PORT, HOST or PORT. Raises BadInputError."""
    from dedos_deploy.runtime.serving.guard import Access

    match = re.fullmatch(
        r"(?:(?P<host>\[[0-9a-fA-F:]+\]|[^:]*):)?(?P<port>\d{1,5})|(?P<only>[^:]+)", address
    )
    if match is None:
        raise BadInputError(
            f"{address!r} is no address to serve at; write HOST:PORT, as {DEFAULT_ADDRESS}"
        )
    host = (match["host"] or match["only"] or "127.0.0.1").strip("[]")
    port = int(match["port"]) if match["port"] else int(DEFAULT_ADDRESS.rpartition(":")[2])
    return Access(host=host, port=port, token=token or os.environ.get(TOKEN_VARIABLE))


def open_cameras(
    args: argparse.Namespace,
    shared: Segmenter,
    classes: Vocabulary,
    words: tuple[str, ...],
    stop: threading.Event,
    stages: StageBoard,
    opened: Opened,
) -> Fleet:
    """Open sources, outputs and, if asked for, the page; return what labels them.

    classes: of every camera at first; words: to suggest in the page.
    """
    from dedos_deploy.runtime.cameras import Fleet
    from dedos_deploy.runtime.serving.hub import Hub

    access = access_of(args.serve, args.token) if args.serve is not None else None
    sources = names_of(args.source)
    _check_outputs(args.output, len(sources), show=args.show)
    views = {name: shared.share(classes) for name in sources}
    record_to = None if args.record_to is None else Path(args.record_to)
    hub = Hub(shared, views, record_to=record_to)
    # One after the other, since requests may begin recordings.
    page = opened.enter("page", ExitStack())
    page.callback(hub.close)
    cameras = [_camera(name, uri, views[name], args, opened) for name, uri in sources.items()]
    fleet = Fleet(
        cameras,
        stop=stop,
        on_result=hub.on_result,
        max_results=args.max_frames,
        sink_errors=args.on_output_error or "continue",
        stages=stages,
    )
    hub.watch(fleet)
    if access is not None:
        from dedos_deploy.runtime.serving.app import Server

        server = page.enter_context(Server(hub, access, words=words))
        shown = "?token=…" if access.token else ""
        log.info("watch at %s%s", server.url, shown)
    return fleet


def with_failures(
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


def failures_of(reports: Sequence[CameraReport]) -> list[str]:
    """Return a sentence for every camera that was lost and every output that failed."""
    from dedos_deploy.runtime.cameras import SourceState

    failures = [
        f"camera {report.name} was lost: {report.source.error}"
        for report in reports
        if report.source.state is SourceState.LOST
    ]
    return failures + [error for report in reports for error in report.outputs.values() if error]


def report_text(reports: Sequence[CameraReport]) -> str:
    """Return the table that is printed at the end."""
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


def report_json(reports: Sequence[CameraReport]) -> str:
    """Return all numbers as one JSON object."""
    return json.dumps({"cameras": [report.to_dict() for report in reports]}, ensure_ascii=False)


def _check_outputs(outputs: Sequence[str], cameras: int, *, show: bool) -> None:
    if show or "window" in outputs:
        raise BadInputError(
            "a window shows one source without --serve; watch several in the page of --serve"
        )
    for uri in outputs:
        if cameras > 1 and PLACE not in uri and uri != "null":
            raise BadInputError(
                f"{cameras} sources cannot share the output {uri!r}; put {PLACE} where the camera's "
                f"name goes, as in {PLACE}.mp4"
            )


def _camera(
    name: str, uri: str, view: SegmenterView, args: argparse.Namespace, opened: Opened
) -> Camera:
    from dedos_deploy.runtime import OverlayPainter, SinkOptions, open_sink, open_source
    from dedos_deploy.runtime.cameras import Camera, FeedOptions
    from dedos_deploy.runtime.live_sources import Reconnect
    from dedos_deploy.runtime.sources import may_come_later, paths_of

    # The feed opens it again, so that its health and attempts are those that are reported.
    def open_again() -> Source:
        return open_source(uri, reconnect=Reconnect(attempts=0))

    first: list[Source] = []
    if not may_come_later(uri):
        # Opened here, so that a mistake in an address ends the program before it has begun.
        first.append(open_again())
        unused = opened.enter(f"source of {name}", ExitStack())
        unused.callback(lambda: [one.close() for one in first])
    live, fps = (first[0].live, first[0].fps) if first else (True, None)

    def open_it() -> Source:
        return first.pop() if first else open_again()

    sinks: list[Sink] = []
    read = tuple(path for other in names_of(args.source).values() for path in paths_of(other))
    for output in args.output:
        painter = OverlayPainter() if args.opacity is None else OverlayPainter(args.opacity)
        options = SinkOptions(
            fps=fps, live=live, overwrite=args.overwrite, painter=painter, protected=read
        )
        sink = open_sink(output.replace(PLACE, name), options)
        sinks.append(opened.enter(sink.uri, sink))
    limit = None if args.max_latency_ms is None else args.max_latency_ms / 1e3
    return Camera(
        name,
        open_it,
        view,
        sinks,
        live=live,
        max_latency_s=limit,
        feed=FeedOptions(reconnect=args.reconnect or Reconnect()),
    )
