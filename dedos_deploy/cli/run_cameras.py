"""What dedos-run opens: sources and outputs by name, and where to serve the page to watch them."""

from __future__ import annotations

import argparse
import logging
import os
import re
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dedos_deploy.cli._options import bundles_read
from dedos_deploy.errors import BadInputError, SourceError, nearest, shown

if TYPE_CHECKING:
    from dedos_deploy.cli._opened import Opened
    from dedos_deploy.interrupts import Interrupts
    from dedos_deploy.runtime import SegmenterView, Sink, SinkOptions, Source
    from dedos_deploy.runtime.flow import Camera, RunOptions
    from dedos_deploy.runtime.serving.guard import Access
    from dedos_deploy.runtime.sources.excerpt import Part
    from dedos_deploy.runtime.sources.playback import Playback
    from dedos_deploy.vocabulary import Vocabulary

log = logging.getLogger(__name__)

DEFAULT_ADDRESS = "127.0.0.1:8080"
PLACE = "{camera}"
TOKEN_VARIABLE = "DEDOS_TOKEN"
LOOK_S = 3.0
"""How long a web server that may have a recording is waited for before the run begins."""

_NAME = r"[A-Za-z0-9_-]{1,40}"
_NAMED = re.compile(rf"({_NAME})=(.+)", re.DOTALL)


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


@dataclass(frozen=True)
class Ends:
    """Where the frames of a camera come from and its results go to."""

    name: str
    """The camera's name, in reports and in names of outputs."""

    uri: str
    """Address of the camera's source."""

    first: list[Source]
    """The camera's source where that is open already, taken by the first who opens it."""

    sinks: list[Sink]
    """Where the results go, open."""

    part: Part
    """Which of its frames are wanted."""

    live: bool = True
    """Whether frames come in their own time; a source that cannot be reached yet is taken for live."""

    fps: float | None = None
    """Frames a second, as far as that is known before the source is read."""

    frames: int | None = None
    """Number of frames in all, as far as that is known."""

    playback: Playback | None = None
    """What the page may pause and move: a recording that is only watched."""

    def open_it(self) -> Source:
        from dedos_deploy.runtime.sources.opening import connect

        return self.first.pop() if self.first else self.part.of(connect(self.uri))

    def labelled_by(self, view: SegmenterView, args: argparse.Namespace) -> Camera:
        from dedos_deploy.runtime.flow import Camera, FeedOptions, Reconnect
        from dedos_deploy.runtime.sources.opening import paths_of, reconnect_of

        # A recording that fails would begin anew, also one that is replayed in its own time.
        is_recorded = not self.live or any(
            path.is_file() or path.is_dir() for path in paths_of(self.uri)
        )
        again = Reconnect(attempts=0) if is_recorded else args.reconnect or reconnect_of(self.uri)
        return Camera(
            self.name,
            self.open_it,
            view,
            self.sinks,
            live=self.live,
            max_latency_s=None if args.max_latency_ms is None else args.max_latency_ms / 1e3,
            # What is read ahead still comes after a pause.
            feed=FeedOptions(
                reconnect=again, ahead=2 if self.playback is None else 1, told=not is_alone(args)
            ),
        )


def is_alone(args: argparse.Namespace) -> bool:
    """Return whether there is one source and nobody watches: its first error ends the run."""
    return args.serve is None and len(sources_of(args)) == 1


def sources_of(args: argparse.Namespace) -> dict[str, str]:
    """Return the addresses of all sources by name. Raises BadInputError."""
    return names_of(args.source if args.camera is None else [f"camera:{args.camera}"])


def classes_of(given: Sequence[str] | None, sources: Collection[str]) -> dict[str, Vocabulary]:
    """Return the vocabulary of every source that was given words. Raises BadInputError.

    given: `LIST` for all sources, `NAME:LIST` for the one of that name.
    """
    from dedos_deploy.vocabulary import typed_vocabulary

    lists: dict[str | None, str] = {}
    for text in given or ():
        name, rest = _addressed(text, sources)
        if name in lists:
            raise BadInputError(_given_twice(name, sources))
        lists[name] = rest
    found = {name: typed_vocabulary(text) for name, text in lists.items()}
    return {
        name: found[name] if name in found else found[None]
        for name in sources
        if name in found or None in found
    }


def _addressed(text: str, sources: Collection[str]) -> tuple[str | None, str]:
    """Return whose words these are, None for all sources, and the words."""
    prefix, colon, rest = text.partition(":")
    name = prefix.strip()
    if colon and name in sources:
        return name, rest
    if colon and len(sources) > 1 and re.fullmatch(_NAME, name) and not os.path.exists(text):
        hint = nearest(name.lower(), sources) or ";"
        raise BadInputError(
            f"--classes {shown(text)}: no source is called {name!r}{hint} there are "
            f"{', '.join(sources)}, and a word with a colon may stand anywhere but first"
        )
    return None, text


def _given_twice(name: str | None, sources: Collection[str]) -> str:
    if name is not None:
        return f"--classes gives words to {name!r} twice; write one list, with commas"
    if len(sources) == 1:
        return "--classes was given twice; write one list, as --classes 'road,car|automobile'"
    names = ", ".join(sources)
    return (
        "--classes was given twice for all sources; write one list for all, and NAME:LIST for one "
        f"of {names}"
    )


def part_of(args: argparse.Namespace) -> Part:
    """Return which frames of recordings are wanted. Raises BadInputError."""
    from dedos_deploy.runtime.sources.excerpt import Part

    return Part(args.every, args.start, args.end)


def check_batch(args: argparse.Namespace) -> None:
    """Raise BadInputError for frames per run that no sources could fill."""
    if args.batch < 1:
        raise BadInputError(f"--batch must be at least 1, not {args.batch}")
    count = len(sources_of(args))
    if args.batch > 1 and count == 1:
        raise BadInputError(
            f"--batch {args.batch} is for sources that share a run, and there is one; name another with "
            "--source, or leave --batch out"
        )
    if args.batch > count:
        raise BadInputError(
            f"--batch {args.batch} is more than the {count} sources, and no run would ever be that full; "
            f"choose at most {count}"
        )


def options_of(args: argparse.Namespace) -> RunOptions:
    """Return when the run ends."""
    from dedos_deploy.runtime.flow import RunOptions

    alone = is_alone(args)
    return RunOptions(
        max_results=args.max_frames,
        errors="raise" if alone else "count",
        sink_errors=args.on_output_error or ("stop" if alone else "continue"),
    )


def check_places(args: argparse.Namespace) -> None:
    """Raise BadInputError where an output would destroy what is read, or another output."""
    from dedos_deploy.places import Written, check_apart, named
    from dedos_deploy.runtime.sinks.opening import check_topics_apart, written_by
    from dedos_deploy.runtime.sources.opening import read_from

    sources = sources_of(args)
    outputs = _outputs_of(args, len(sources))
    addresses = [uri.replace(PLACE, name) for name in sources for uri in outputs]
    check_topics_apart(addresses)
    written = [one for one in map(written_by, addresses) if one is not None]
    if args.trace is not None:
        written.append(Written(f"trace {args.trace!r}", Path(args.trace)))
    if args.state is not None:
        written.append(Written(f"state {args.state!r}", Path(args.state)))
    if args.collect is not None:
        from dedos_deploy.runtime.serving.collecting import HOLDS

        written.append(Written(f"collect {args.collect!r}", Path(args.collect), HOLDS))
    read = [read_from(uri) for uri in sources.values()]
    # A file of words may be that of one source alone, as NAME:FILE.
    lists = {part for text in args.classes or () for part in (text, text.partition(":")[2])}
    words = named("class file", *filter(os.path.isfile, sorted(lists)))
    check_apart(written, [*read, *bundles_read(args.bundle), *words])


def open_cameras(args: argparse.Namespace, interrupts: Interrupts, opened: Opened) -> list[Ends]:
    """Open sinks, and the sources that cannot be waited for. Raises DedosError."""
    from dedos_deploy.runtime import open_sink
    from dedos_deploy.runtime.sources.opening import read_from

    sources = sources_of(args)
    outputs = _outputs_of(args, len(sources))
    if args.serve is not None:
        access_of(args.serve, args.token)
    # At once, for a server that does not answer is waited for.
    with ThreadPoolExecutor(len(sources), thread_name_prefix="dedos-open") as pool:
        found = list(
            pool.map(lambda name: _open_source(name, sources[name], args, opened), sources)
        )
    # A glob may name very many files: looked for once, whatever the number of cameras.
    protected = tuple(path for uri in sources.values() for path in read_from(uri).paths)
    with interrupts.held():
        for ends in found:
            options = _sink_options(ends, args, protected)
            for output in outputs:
                sink = open_sink(output.replace(PLACE, ends.name), options)
                # Of a lone source the summary says it.
                if sink.codec is not None and not is_alone(args):
                    log.info("%s is in %s", sink.uri, sink.codec)
                ends.sinks.append(
                    opened.enter(sink.uri, sink, on_this_thread=sink.on_callers_thread)
                )
    return found


def _outputs_of(args: argparse.Namespace, cameras: int) -> list[str]:
    outputs = [*args.output, *(["window"] if args.show else [])]
    if "window" in outputs and not is_alone(args):
        raise BadInputError(
            "a window shows one source without --serve; watch several in the page of --serve"
        )
    if len(set(outputs)) < len(outputs):
        raise BadInputError(f"an output is named twice among {', '.join(outputs)}; remove one")
    if args.codec != "auto" and not any(uri.lower().endswith((".mp4", ".webm")) for uri in outputs):
        raise BadInputError(
            f"--codec {args.codec} is for an output .mp4, and there is none; add one"
        )
    for uri in outputs:
        if cameras > 1 and PLACE not in uri and uri != "null":
            raise BadInputError(
                f"{cameras} sources cannot share the output {uri!r}; put {PLACE} where the camera's "
                f"name goes, as in {PLACE}.mp4"
            )
    return outputs


def _open_source(name: str, uri: str, args: argparse.Namespace, opened: Opened) -> Ends:
    from dedos_deploy.runtime import open_source
    from dedos_deploy.runtime.flow import Reconnect
    from dedos_deploy.runtime.sources.opening import check_later, connect, may_come_later
    from dedos_deploy.runtime.sources.playback import Playback

    part = part_of(args)
    if may_come_later(uri) and (args.reconnect is not None or not is_alone(args)):
        check_later(uri)
        source = _recording_at(uri)
        if source is None:
            part.check_live(f"source {name}")
            return Ends(name, uri, [], [], part)
    else:
        source = open_source(uri, reconnect=Reconnect(attempts=0))
    if args.stable and source.frames == 1:
        source.close()
        raise BadInputError(
            f"--stable smooths labels over the frames of a video, but source {source.source_id!r} is a "
            "single picture; leave --stable out, or name a video, a camera or a folder of its frames"
        )
    source = part.of(source)
    # Opened here, so that a mistake in an address ends the program before it has begun; the feed
    # opens it again, so that its health and attempts are those that are reported.
    playback = None
    if args.serve is not None and not (source.live or args.output):
        source = playback = Playback(source, lambda: part.of(connect(uri)))
    first = [source]
    unused = opened.enter(f"source of {name}", ExitStack())
    unused.callback(lambda: [one.close() for one in first])
    return Ends(name, uri, first, [], part, source.live, source.fps, source.frames, playback)


def _recording_at(uri: str) -> Source | None:
    """Return what is at `uri` if it is a recording, which web servers have, too: its outputs are
    those of a recording. None also where nobody answers in LOOK_S, as cameras that come later."""
    from dedos_deploy.runtime.sources.live import connect_network
    from dedos_deploy.runtime.uri import network_scheme

    if network_scheme(uri) not in ("http", "https"):
        return None
    try:
        source = connect_network(uri, open_timeout_s=LOOK_S)
    except SourceError:
        return None  # the feed says why, and goes on trying
    if not source.live:
        return source
    source.close()
    return None


def _sink_options(ends: Ends, args: argparse.Namespace, protected: tuple[Path, ...]) -> SinkOptions:
    from dedos_deploy.runtime import OverlayPainter, SinkOptions
    from dedos_deploy.runtime.sinks.overlay import OPACITY

    opacity = OPACITY if args.opacity is None else args.opacity
    return SinkOptions(
        fps=ends.fps,
        live=ends.live,
        overwrite=args.overwrite,
        codec=args.codec,
        painter=OverlayPainter(opacity, legend=args.legend, contours=args.contours),
        protected=protected,
    )
