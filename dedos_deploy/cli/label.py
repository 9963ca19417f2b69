"""dedos-label: label very many pictures into a data set, and go on wherever an earlier run ended."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dedos_deploy.cli._main import (
    EXIT_OK,
    EXIT_USER_ERROR,
    command_parser,
    run_command,
    run_verb,
)
from dedos_deploy.cli._options import add_tiles
from dedos_deploy.errors import BadInputError
from dedos_deploy.interrupts import EXIT_INTERRUPTED
from dedos_deploy.spec import BACKGROUNDS, CPU_ENGINES

if TYPE_CHECKING:
    from dedos_deploy.bundle import Bundle
    from dedos_deploy.corpus.beginning import Wanted
    from dedos_deploy.corpus.course import Outcome
    from dedos_deploy.corpus.labelling import Job
    from dedos_deploy.corpus.ray_cluster import RayCluster
    from dedos_deploy.vocabulary import Vocabulary

EXIT_WITH_ERRORS = 3
"""All was labelled that could be read, and some could not."""

VERBS = {"export": "label_export", "import": "label_import", "verify": "label_verify"}

ERRORS_FILE = "errors.jsonl"
HOLDS = ("labels/*.parquet", "dataset.json", "manifest.parquet", ERRORS_FILE)
"""Patterns of what is written into the data set's folder."""

DESCRIPTION = """\
Label pictures, videos, recordings, Parquet files and WebDataset tars into a data set of Parquet files,
with as many processes as there are cores. After Ctrl-C, a crash or a full disk the same command goes on."""

EPILOG = """\
examples:
  dedos-label drives/ --classes "road,car|automobile,person" --output labels
      every picture, video, recording, Parquet file and tar below a folder
  dedos-label "s3://clips/2024/*.mp4" --bundle street.dedos --classes classes.txt --every 25 \\
            --output s3://labels/2024
      one frame in 25 of videos in a bucket, into another; needs fsspec's package for it, s3fs
  dedos-label "s3://clips/2024/*.mp4" --classes classes.txt --output s3://labels/2024 --ray head:6379
      on all machines of a Ray cluster, of which this is one
  dedos-label verify labels
      proves that every frame of the inputs is there once, and whole
  dedos-label export labels --to cvat --review 50 --output to_correct
      the frames that it was least sure of, for an annotation tool
  dedos-label import to_correct/annotations.xml --from cvat --output yard
      what was corrected there, as a label folder to train and tune on

inputs:    pictures, videos, .mcap and .bag recordings (drive.mcap?topic=/image), Parquet files with pictures
           in a column (rows.parquet?column=image), .tar files of a WebDataset, folders and "quoted/**/*.jpg"
           globs of all these, scene:street; paths, or addresses of fsspec: s3://, gs://, hf://, https://
output:    a folder with dataset.json, labels/part-*.parquet and, where something could not be read,
           errors.jsonl; see docs/corpus.md
exit code: 0 all is labelled; 3 all that could be read is, see errors.jsonl; 2 it could not go on;
           130 interrupted"""


def main(argv: Sequence[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else argv
    if words and words[0] in VERBS:
        return run_verb("dedos-label", VERBS, build_parser, run, argv)
    return run_command(build_parser, run, argv)


def build_parser() -> argparse.ArgumentParser:
    parser = command_parser("dedos-label", DESCRIPTION, EPILOG)
    parser.add_argument(
        "inputs", nargs="+", metavar="INPUT", help="what to label, see inputs below"
    )
    parser.add_argument(
        "--output", required=True, metavar="DIR", help="folder of the data set, by path or address"
    )
    parser.add_argument(
        "--bundle",
        default="demo",
        metavar="PATH",
        help='bundle folder or .dedos file; "demo" (default) is the embedded one',
    )
    parser.add_argument(
        "--classes",
        required=True,
        metavar="LIST",
        help='"car|automobile,road@0.3#808080", a text file with one class a line, or a words file of '
        "dedos-train tune-words: synonyms, least score and colour are optional",
    )
    parser.add_argument(
        "--background",
        choices=BACKGROUNDS,
        default="threshold",
        help="what stays unlabelled, as of dedos-run (default: threshold)",
    )
    parser.add_argument(
        "--threshold",
        type=float,
        metavar="X",
        help="score in [0, 1] for classes without their own @X (default: the bundle's)",
    )
    add_tiles(parser)
    parser.add_argument(
        "--confidence",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="keep the winning score of every pixel, too, some 50 times as large as the labels",
    )
    parser.add_argument(
        "--every",
        type=int,
        default=1,
        metavar="N",
        help="of a recording, Parquet file, tar, and of the pictures of an input, label one frame in N "
        "(default: 1)",
    )
    parser.add_argument("--max-frames", type=int, metavar="N", help="label at most N frames in all")
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes, each with an engine of its own (default: one per usable core, on a GPU 1; with "
        "--ray as many as its CPUs less one, or its GPUs)",
    )
    parser.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="CPU threads of each process (default: the usable cores, shared out; with --ray 1)",
    )
    parser.add_argument(
        "--ray",
        metavar="ADDRESS",
        help='label on the machines of a Ray cluster, host:port of its head, or "local" for a cluster of '
        "this one; all machines must reach inputs, output and bundle under these names",
    )
    parser.add_argument(
        "--shard-frames",
        type=int,
        metavar="N",
        help="frames of a part file, which are lost when a process is killed (default: up to 500, fewer "
        "for small inputs)",
    )
    parser.add_argument(
        "--engine",
        default="cpu",
        metavar="NAME",
        help="what to run on: cpu (default), openvino, trt, rtx or cuda, as of dedos-run",
    )
    parser.add_argument(
        "--gpu", type=int, default=0, metavar="N", help="which GPU, from 0 (default: 0)"
    )
    parser.add_argument(
        "--json",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="print the summary as one JSON object",
    )
    parser.add_argument(
        "--quiet",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="no progress on stderr; warnings and errors stay",
    )
    return parser


def run(args: argparse.Namespace) -> int:
    """Label as told by the arguments and return the exit code."""
    from dedos_deploy.bundle import Bundle
    from dedos_deploy.cli._progress import ProgressLines, WarningLines
    from dedos_deploy.corpus.beginning import begin
    from dedos_deploy.corpus.loop import label_shards
    from dedos_deploy.corpus.ray_workers import RayWorkers
    from dedos_deploy.interrupts import interrupts_taken
    from dedos_deploy.runtime.opencv import silence_ffmpeg
    from dedos_deploy.vocabulary import typed_vocabulary

    silence_ffmpeg()
    # What is cheap to check comes first: a typing mistake should not cost a model's loading time.
    vocabulary = typed_vocabulary(args.classes)
    _wanted(args, _workers(args, None))
    _check_places(args)
    progress = WarningLines() if args.quiet else ProgressLines()
    with contextlib.ExitStack() as opened:
        bundle = opened.enter_context(Bundle.open(args.bundle))
        interrupts = opened.enter_context(interrupts_taken("dedos-label"))
        if args.ray is not None:
            # Ray prints there what it has to say of nodes, where --json promises an object.
            opened.enter_context(contextlib.redirect_stdout(sys.stderr))
        cluster = _cluster(args)
        if cluster is not None:
            opened.enter_context(cluster)
        workers = _workers(args, cluster)
        job = _job(args, bundle, vocabulary, workers)
        begun = begin(job, _wanted(args, workers), progress)
        pool = None if cluster is None else RayWorkers(cluster, job, progress)
        stop = interrupts.defer()
        outcome = label_shards(begun, job, workers=workers, pool=pool, stop=stop, progress=progress)
    return _told(args, outcome)


def _cluster(args: argparse.Namespace) -> RayCluster | None:
    """Return the cluster that is to label, None for this machine."""
    from dedos_deploy.corpus.ray_cluster import RayCluster

    if args.ray is None:
        return None
    if args.gpu:
        raise BadInputError(
            "--gpu is for this machine: --ray gives each worker a GPU; leave one out"
        )
    on_gpu = args.engine not in CPU_ENGINES
    return RayCluster(args.ray, workers=args.workers, threads=_threads(args, 1), on_gpu=on_gpu)


def _workers(args: argparse.Namespace, cluster: RayCluster | None) -> int:
    from dedos_deploy.threads import usable_cores

    if args.workers is not None and args.workers < 1:
        raise BadInputError(f"--workers must be at least 1, not {args.workers}")
    if args.workers is None and cluster is None:
        return usable_cores() if args.engine in CPU_ENGINES else 1
    workers: int = args.workers if cluster is None else cluster.workers
    return workers


def _wanted(args: argparse.Namespace, workers: int) -> Wanted:
    from dedos_deploy.corpus.beginning import Wanted
    from dedos_deploy.corpus.inputs import absolute

    return Wanted(
        inputs=tuple(map(absolute, args.inputs)),
        every=args.every,
        most=args.max_frames,
        shard_frames=args.shard_frames,
        workers=workers,
    )


def _job(args: argparse.Namespace, bundle: Bundle, vocabulary: Vocabulary, workers: int) -> Job:
    from dedos_deploy.corpus.folders import scheme_of
    from dedos_deploy.corpus.labelling import Job

    return Job(
        output=args.output
        if scheme_of(args.output)
        else os.path.abspath(os.path.expanduser(args.output)),
        bundle=args.bundle,
        vocabulary=vocabulary,
        bundle_sha256=bundle.sha256,
        background=args.background,
        threshold=args.threshold,
        tiles=args.tiles,
        engine=args.engine,
        gpu=args.gpu,
        threads=_threads(args, workers),
        confidence=args.confidence,
    )


def _threads(args: argparse.Namespace, workers: int) -> int:
    """Return the CPU threads of each worker; those of other machines are not to be counted here."""
    from dedos_deploy.threads import usable_cores, usable_threads

    if args.threads is not None:
        return usable_threads(args.threads)
    return 1 if args.ray is not None else max(1, usable_cores() // workers)


def _check_places(args: argparse.Namespace) -> None:
    """Raise BadInputError where the output would destroy what is read."""
    from dedos_deploy.cli._options import bundles_read, check_run_folder
    from dedos_deploy.corpus.folders import scheme_of
    from dedos_deploy.corpus.inputs import local_paths
    from dedos_deploy.places import named

    if scheme_of(args.output) is not None:
        return
    output = Path(args.output).expanduser()
    if output.exists() and not output.is_dir():
        raise BadInputError(f"--output {args.output!r} is a file; name a folder")
    words = named("class file", *filter(os.path.isfile, [args.classes]))
    read = [*bundles_read(args.bundle), *words, *named("input", *local_paths(args.inputs))]
    check_run_folder(output, HOLDS, read)


def _told(args: argparse.Namespace, outcome: Outcome) -> int:
    """Say what became of the run, and return the exit code."""
    wrong = sum("error" in error for error in outcome.errors)
    left = outcome.shards - outcome.done
    if outcome.stopped:
        print(
            f"\ndedos-label: interrupted; {outcome.done} of {outcome.shards} shards are labelled, and the "
            "same command goes on from there",
            file=sys.stderr,
        )
        return EXIT_INTERRUPTED
    rate = outcome.frames / outcome.seconds if outcome.seconds else 0.0
    numbers = {
        "output": outcome.folder,
        "frames": outcome.frames,
        "seconds": round(outcome.seconds, 3),
        "frames_per_s": round(rate, 2),
        "shards": outcome.shards,
        "shards_left": left,
        "errors": wrong,
    }
    if args.json:
        print(json.dumps(numbers, ensure_ascii=False))
    else:
        print(f"{outcome.folder}: {outcome.frames} frames labelled, {rate:.1f} a second")
    for shard, how in outcome.lost.items():
        text = f"shard {shard} is not labelled: the process at it {how}, twice"
        print(f"dedos-label: error: {text}", file=sys.stderr)
    if left:
        return EXIT_USER_ERROR
    if wrong:
        text = f"{wrong} could not be read, see {ERRORS_FILE} in {outcome.folder}"
        print(f"dedos-label: warning: {text}", file=sys.stderr)
    return EXIT_WITH_ERRORS if wrong else EXIT_OK


if __name__ == "__main__":
    raise SystemExit(main())
