"""dedos-run: label a camera, stream, video or set of images by class names."""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from dedos_deploy.cli._main import EXIT_USER_ERROR, one_line, run_command
from dedos_deploy.cli._run_parser import build_parser
from dedos_deploy.errors import BadInputError, DedosError
from dedos_deploy.spec import TYPED_TARGETS

if TYPE_CHECKING:
    from dedos_deploy.bundle import Bundle
    from dedos_deploy.interrupts import Interrupts
    from dedos_deploy.runtime import Segmenter
    from dedos_deploy.runtime.flow import Run
    from dedos_deploy.runtime.serving.state_file import StateFile
    from dedos_deploy.vocabulary import Vocabulary

log = logging.getLogger(__name__)


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
    from dedos_deploy.cli.run_cameras import (
        check_batch,
        check_places,
        classes_of,
        part_of,
        sources_of,
    )
    from dedos_deploy.interrupts import interrupts_taken
    from dedos_deploy.runtime.opencv import silence_ffmpeg

    silence_ffmpeg()
    # What is cheap to check comes first: a typing mistake should not cost a model's loading time.
    words = classes_of(args.classes, sources_of(args))
    part_of(args)
    check_batch(args)
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
        if args.batch > 1:
            bundle.graph(args.batch)  # which says what there is instead
        vocabularies = _vocabularies(args, bundle, words)
        cameras = open_cameras(args, interrupts, opened)
        stages = watch(args, opened)
        tell_what_is_left(interrupts, stages, opened)
        first = next(iter(vocabularies.values()))
        shared = opened.enter("engine", _load(args, bundle, first))
        stop = interrupts.defer()
        views = {name: shared.share(vocabulary) for name, vocabulary in vocabularies.items()}
        seats = [camera.labelled_by(views[camera.name], args) for camera in cameras]
        together = shared.together if args.batch > 1 else None
        run = Run(seats, options_of(args), stop=stop, stages=stages, together=together)
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

    # Building or comparing an engine may take minutes; the others load in seconds and need no line.
    shown = args.engine in (*TYPED_TARGETS, "openvino") and not args.quiet
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
            batch=args.batch,
            stable=args.stable,
            tiles=args.tiles,
            on_progress=progress,
        )


if __name__ == "__main__":
    raise SystemExit(main())
