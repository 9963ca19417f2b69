"""dedos-run: label a camera, stream, video or set of images by class names."""

from __future__ import annotations

import argparse
import contextlib
import logging
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from dedos_deploy.cli._main import EXIT_USER_ERROR, command_parser, one_line, run_command
from dedos_deploy.errors import BadInputError, DedosError
from dedos_deploy.spec import BACKGROUNDS, TYPED_TARGETS

if TYPE_CHECKING:
    from dedos_deploy.bundle import Bundle
    from dedos_deploy.interrupts import Interrupts
    from dedos_deploy.runtime import Segmenter
    from dedos_deploy.runtime.flow import Reconnect, Run
    from dedos_deploy.runtime.serving.state_file import StateFile
    from dedos_deploy.vocabulary import Vocabulary

log = logging.getLogger(__name__)


DESCRIPTION = """\
Label a camera, stream, video or set of images by class names that you choose.
Every pixel gets one of your classes, or none of them."""

EPILOG = """\
examples:
  dedos-run --source scene:street --classes "road,car,tree" --output overlay.mp4
      labels a scene drawn by this package with the embedded demo bundle
  dedos-run --camera 0 --classes "floor,person" --show
      labels a camera and shows a window; q or Esc ends it
  dedos-run --source drive.mp4 --bundle street.dedos --classes "road@0.3,car|automobile,person" \\
            --output overlay.mp4 --output frames.jsonl --output masks:masks
      labels every frame of a video into three outputs at once; "car" also answers to
      "automobile", and "road" needs a score of 0.3 ("road#808080" gives it a colour)
  dedos-run --source rtsp://user:password@10.0.0.5/live --classes classes.txt --background negatives
      labels a network camera with the class list of a file, one class a line
  dedos-run --source gate=rtsp://10.0.0.5/live --source yard=1 --classes "person,car" --serve \\
            --output "{camera}.jsonl"
      two cameras on one engine, each with an output of its own, and a page to watch them
  dedos-run --camera 0 --bundle street-trt.dedos --engine trt --classes "road,car" --show
      on a Jetson: builds the engine at the first run and keeps it

sources:   0 or camera:0, /dev/video0, a video file, an image, a folder or "quoted/glob*.jpg",
           rtsp:// or http(s)://, gst:PIPELINE, csi:0, drive.mcap or .bag, test:bars,
           scene:street or scene:hall (?frames=50&size=240x320&seed=3); see docs/cameras.md
outputs:   out.mp4 .webm .avi .mkv overlay video      masks:FOLDER     label map PNGs + classes.json
           out.png .jpg        overlay, last frame    overlays:FOLDER  overlay JPEGs
           out.jsonl           one JSON line a frame  out.mcap         for Foxglove
           out.rrd, rerun+http://127.0.0.1:9876/proxy for Rerun        window, null

Files give every frame; cameras and streams give the newest, and frames that could not be labelled
in time are counted as drops. A lost camera or stream is opened again with growing pauses. A video
that is cut short is labelled as far as it goes, with a warning.
Every output has a thread of its own: a slow one loses results of a live source, which is counted,
and holds up a recording. Ctrl-C finishes the frame, completes the outputs and prints the summary,
all within two seconds: what hangs is left behind. Once more ends at once.
exit code: 0 done, 2 something to correct (one line on stderr), also when a camera was lost or an
           output failed, 130 interrupted"""


def build_parser() -> argparse.ArgumentParser:
    parser = command_parser("dedos-run", DESCRIPTION, EPILOG)
    add_arguments(parser)
    return parser


def add_arguments(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--source",
        action="append",
        metavar="URI",
        help="what to label, see sources below; repeat for several cameras on one engine, each as "
        "NAME=URI or URI",
    )
    source.add_argument("--camera", type=int, metavar="N", help="the same as --source camera:N")
    source.add_argument(
        "--licenses",
        "--credits",
        dest="credits",
        action="store_true",
        help="print the licence of the bundle's weights and whom they owe credit, and end",
    )
    parser.add_argument(
        "--bundle",
        default="demo",
        metavar="PATH",
        help='bundle folder or .dedos file; "demo" (default) is the embedded one',
    )
    parser.add_argument(
        "--classes",
        action="append",
        metavar="LIST",
        help='"car|automobile,road@0.3#808080" or a text file with one class a line: synonyms, least score '
        "and colour are optional (default: the bundle's base vocabulary); of several sources, NAME:LIST "
        "is for that one alone, and may be repeated",
    )
    parser.add_argument(
        "--background",
        choices=BACKGROUNDS,
        default="threshold",
        help="what stays unlabelled: pixels scoring below the threshold of their best class "
        "(default), also pixels that look more like another word of the bundle's base vocabulary "
        "(with a dense CLIP, whose null words do that job, rarely needed), or none at all",
    )
    parser.add_argument(
        "--threshold",
        type=float,
        metavar="X",
        help="score in [0, 1] for classes without their own @X (default: the bundle's)",
    )
    parser.add_argument(
        "--output",
        action="append",
        default=[],
        metavar="URI",
        help="what to write, see outputs below; repeat for several",
    )
    parser.add_argument(
        "--show", action=argparse.BooleanOptionalAction, default=False, help="show a window"
    )
    parser.add_argument(
        "--overwrite",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="replace outputs that exist, which is refused otherwise; of a link the link itself, "
        "never its target; a source never",
    )
    parser.add_argument(
        "--opacity", type=float, metavar="X", help="of the overlay, in [0, 1] (default: 0.5)"
    )
    parser.add_argument(
        "--legend",
        choices=("on", "beside", "off"),
        default="on",
        help="of overlays: in a corner where it hides little (default), beside the picture, which "
        "makes it wider, or none",
    )
    parser.add_argument(
        "--contours",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="draw the borders of the classes into overlays",
    )
    parser.add_argument(
        "--codec",
        choices=("auto", "h264", "vp8", "jpeg"),
        default="auto",
        help="of outputs .mp4: auto (default) is H.264 where GStreamer or PyAV encodes it, else VP8, which "
        "browsers play, too; of live sources JPEG",
    )
    parser.add_argument(
        "--serve",
        nargs="?",
        const="127.0.0.1:8080",
        metavar="HOST:PORT",
        help="serve a page to watch the cameras and change their words, and an API (default: "
        "127.0.0.1:8080); other machines need --token; recordings without --output pause at their end",
    )
    parser.add_argument(
        "--token",
        metavar="TEXT",
        help="what every request must show, at least 16 letters (default: $DEDOS_TOKEN)",
    )
    parser.add_argument(
        "--record-to",
        metavar="FOLDER",
        help="with --serve: where the page's record button puts its videos (default: no button)",
    )
    parser.add_argument(
        "--state",
        metavar="FILE",
        help="with --serve: keep the words and colours chosen in the page in this file, and begin with "
        "them the next time, whatever --classes says",
    )
    parser.add_argument(
        "--max-latency-ms",
        type=float,
        metavar="MS",
        help="drop frames before they are labelled that would be older than this when done",
    )
    parser.add_argument(
        "--reconnect",
        type=_attempts,
        metavar="N",
        help="how often in a row a live source that stopped, or cannot be reached at first, is opened "
        "again, with growing pauses up to 30 s, or `forever` (default: 10, cameras on this machine 5; a "
        "single source without --serve must be there at first)",
    )
    parser.add_argument(
        "--on-output-error",
        choices=("stop", "continue"),
        help="end the run when an output cannot be written any more (default for one source), or go "
        "on without it (default for several and --serve)",
    )
    parser.add_argument(
        "--trace",
        metavar="FILE",
        help="write what ran when as a Chrome trace (.json), for https://ui.perfetto.dev",
    )
    parser.add_argument(
        "--watchdog",
        type=float,
        default=10.0,
        metavar="S",
        help="say what is stuck, and where, when a source, the engine or an output takes longer than "
        "S seconds for one frame; 0 says nothing (default: 10)",
    )
    parser.add_argument(
        "--log-format",
        choices=("text", "json"),
        default="text",
        help="of the lines on stderr: sentences (default), or a JSON object each",
    )
    parser.add_argument("--max-frames", type=int, metavar="N", help="stop after N frames")
    parser.add_argument(
        "--every",
        type=int,
        default=1,
        metavar="N",
        help="of a recording, label one frame in N (default: 1)",
    )
    parser.add_argument(
        "--start",
        type=_seconds,
        default=0.0,
        metavar="TIME",
        help="of a recording, begin at this position: seconds, or M:SS, H:MM:SS",
    )
    parser.add_argument(
        "--end",
        type=_seconds,
        metavar="TIME",
        help="of a recording, end before this position",
    )
    parser.add_argument(
        "--engine",
        default="cpu",
        metavar="NAME",
        help="what to run on: cpu (default), trt or rtx (TensorRT, built here at the first run of a "
        "bundle of that target), cuda (ONNX Runtime on an NVIDIA GPU)",
    )
    parser.add_argument(
        "--gpu", type=int, default=0, metavar="N", help="which GPU, from 0 (default: 0)"
    )
    parser.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="CPU threads, at most one per usable core (default: all)",
    )
    parser.add_argument(
        "--json",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="print the summary as one JSON object instead of a table",
    )
    parser.add_argument(
        "--quiet",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="no status line and no notes on stderr; warnings and errors stay",
    )


def _seconds(text: str) -> float:
    """Return the seconds of `90`, `1:30` or `0:01:30`, any with a fraction.

    >>> _seconds("1:02:03.5")
    3723.5
    """
    if not re.fullmatch(r"(\d{1,4}:)?(\d{1,2}:)?\d{1,6}(\.\d{1,9})?", text, re.ASCII):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no position; write seconds, as 12.5, or M:SS or H:MM:SS"
        )
    seconds = 0.0
    for part in text.split(":"):
        seconds = 60 * seconds + float(part)
    return seconds


def _attempts(text: str) -> Reconnect:
    from dedos_deploy.runtime.flow import Reconnect

    if text == "forever":
        return Reconnect(attempts=None)
    if not re.fullmatch(r"\d{1,9}", text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no number of attempts; write one, or forever"
        )
    return Reconnect(attempts=int(text))


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(build_parser, run, argv)


def run(args: argparse.Namespace) -> int:
    """Label as told by the arguments and return the exit code."""
    if args.credits:
        from dedos_deploy.cli._credits import print_credits

        return print_credits(args, build_parser().parse_args(["--credits"]))
    from dedos_deploy.cli._logs import logging_to_stderr

    with logging_to_stderr("dedos-run", args.log_format, quiet=args.quiet):
        try:
            return _run(args)
        except DedosError as error:
            if args.log_format == "text":
                raise
            log.error("%s", one_line(str(error)))
            return EXIT_USER_ERROR


def _run(args: argparse.Namespace) -> int:
    from dedos_deploy.cli._run_page import check_serving, state_of, words_with
    from dedos_deploy.cli.run_cameras import check_places, classes_of, part_of, sources_of
    from dedos_deploy.interrupts import interrupts_taken
    from dedos_deploy.runtime.opencv import silence_ffmpeg

    silence_ffmpeg()
    # What is cheap to check comes first: a typing mistake should not cost a model's loading time.
    words = classes_of(args.classes, sources_of(args))
    part_of(args)
    if args.max_latency_ms is not None and not args.max_latency_ms > 0:
        raise BadInputError(f"--max-latency-ms must be positive, not {args.max_latency_ms}")
    check_serving(args)
    if args.max_frames is not None and args.max_frames < 1:
        raise BadInputError(f"--max-frames must be at least 1, not {args.max_frames}")
    if not 0 <= args.watchdog <= 3600:
        raise BadInputError(f"--watchdog must lie in 0 to 3600 seconds, not {args.watchdog:g}")
    check_places(args)
    state = state_of(args)
    words = words_with(state, words, args)
    with interrupts_taken("dedos-run") as interrupts:
        interrupts.say = lambda text: log.error("%s", text)
        return _label(args, words, state, interrupts)


def _label(
    args: argparse.Namespace,
    words: Mapping[str, Vocabulary],
    state: StateFile | None,
    interrupts: Interrupts,
) -> int:
    """Open everything, label until the end, close everything and say what became of it."""
    from dedos_deploy.bundle import Bundle
    from dedos_deploy.cli._opened import Opened
    from dedos_deploy.cli._run_ends import (
        exit_code,
        lost,
        report,
        tell_what_is_left,
        watch,
    )
    from dedos_deploy.cli._run_page import Watched, open_page
    from dedos_deploy.cli.run_cameras import is_alone, open_cameras, options_of
    from dedos_deploy.runtime.flow import Run

    with Opened(interrupts.stop) as opened:
        bundle = opened.enter("bundle", Bundle.open(args.bundle))
        vocabularies = _vocabularies(args, bundle, words)
        cameras = open_cameras(args, interrupts, opened)
        stages = watch(args, opened)
        tell_what_is_left(interrupts, stages, opened)
        first = next(iter(vocabularies.values()))
        shared = opened.enter("engine", _load(args, bundle, first))
        stop = interrupts.defer()
        views = {name: shared.share(vocabulary) for name, vocabulary in vocabularies.items()}
        seats = [camera.labelled_by(views[camera.name], args) for camera in cameras]
        run = Run(seats, options_of(args), stop=stop, stages=stages)
        open_page(args, Watched(run, shared, views, cameras, bundle, state), opened)
        frames = cameras[0].frames if is_alone(args) else None
        with _status(args, run, frames):
            try:
                reports = run.run()
            finally:
                # Also after an error: what is stuck cannot be closed, and nothing must wait for it.
                opened.at_work = [*run.left_behind, *([shared] if run.engine_is_stuck else [])]
        failed = opened.finish()
    failures = {**failed, **run.sink_failures}
    sinks = [sink for camera in cameras for sink in camera.sinks]
    whole = [sink for sink in sinks if sink.uri not in {*failures, *opened.left}]
    report(args, reports, run.outcome, whole, failures)
    errors = [*lost(reports), *map(str, failures.values())]
    return exit_code(errors, stages, opened, interrupts)


@contextlib.contextmanager
def _status(args: argparse.Namespace, run: Run, frames: int | None) -> Iterator[None]:
    """Show how a lone source is, if nobody else is told of its results."""
    from dedos_deploy.cli._status import StatusLine
    from dedos_deploy.cli.run_cameras import is_alone

    enabled = is_alone(args) and not args.quiet
    with StatusLine(sys.stderr, enabled=enabled, frames=frames) as status:
        if is_alone(args):
            run.on_result = lambda *_: status.update(lambda: run.reports()[0].results)
        yield


def _vocabularies(
    args: argparse.Namespace, bundle: Bundle, words: Mapping[str, Vocabulary]
) -> dict[str, Vocabulary]:
    """Return the vocabulary of every source; the bundle's own words where none were given."""
    from dedos_deploy.cli.run_cameras import sources_of
    from dedos_deploy.vocabulary import Entry, Vocabulary

    names = list(sources_of(args))
    without = [name for name in names if name not in words]
    if not without:
        return dict(words)
    base = bundle.base_words
    if not base:
        raise BadInputError(
            f"bundle {args.bundle!r} ships no base vocabulary to fall back on; name your classes, "
            "as in --classes 'road,car|automobile'"
        )
    own = Vocabulary(tuple(Entry(word) for word in base))
    log.info(
        "no --classes given%s: using the bundle's own %d, %s",
        f" for {', '.join(without)}" if words else "",
        len(base),
        ", ".join(entry.spelled for entry in own.entries),
    )
    return {name: words.get(name, own) for name in names}


def _load(args: argparse.Namespace, bundle: Bundle, vocabulary: Vocabulary) -> Segmenter:
    from dedos_deploy.cli._progress import ProgressLines
    from dedos_deploy.progress import QUIET
    from dedos_deploy.runtime import Segmenter

    # Building an engine may take minutes; the others load in seconds and need no line.
    shown = args.engine in TYPED_TARGETS and not args.quiet
    progress = ProgressLines() if shown else QUIET
    with progress.part(1, 1, f"preparing the {args.engine} engine"):
        return Segmenter.load(
            bundle,
            classes=vocabulary,
            background=args.background,
            threshold=args.threshold,
            threads=args.threads,
            engine=args.engine,
            gpu=args.gpu,
            on_progress=progress,
        )


if __name__ == "__main__":
    raise SystemExit(main())
