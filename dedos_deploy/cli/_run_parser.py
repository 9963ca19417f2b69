"""The options of dedos-run."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING

from dedos_deploy.cli._main import command_parser
from dedos_deploy.cli._options import add_tiles
from dedos_deploy.spec import BACKGROUNDS, CODECS, LEGENDS

if TYPE_CHECKING:
    from dedos_deploy.runtime.flow import Reconnect

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
           ros2:/TOPIC, scene:street or scene:hall (?frames=50&size=240x320&seed=3); see
           docs/cameras.md
outputs:   out.mp4 .webm .avi .mkv overlay video      masks:FOLDER     label map PNGs, their classes
           out.png .jpg        overlay, last frame    overlays:FOLDER  overlay JPEGs
           out.jsonl           one JSON line a frame  out.mcap         for Foxglove; as ROS 2
                                                      messages: out.mcap?profile=ros2
           out.rrd, rerun+http://127.0.0.1:9876/proxy for Rerun        window, null
           ros2:/NAMESPACE     topics of ROS 2

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
        help='"car|automobile,road@0.3#808080", a text file with one class a line, or a words file of '
        "dedos-train tune-words: synonyms, least score "
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
        "--stable",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="smooth scores over time, moved along with the picture, so that labels flicker less: of every "
        "source alone, anew after a cut or with other words; pictures of a folder count as a video in "
        "the order of their names, a single one is refused; labels are then made on the CPU, whatever the "
        "engine runs on",
    )
    add_tiles(parser)
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
        choices=LEGENDS,
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
        choices=CODECS,
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
        "--collect",
        metavar="FOLDER",
        help="with --serve: where the page puts frames whose labels are put right, a label folder for "
        "dedos-train, made where there is none; one that is there gets more frames, and more words at the "
        "end of its classes.txt (default: no button)",
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
        help="what to run on: cpu (default), openvino (the CPU, in BF16 where it has that), trt or rtx "
        "(TensorRT, built here at the first run of a bundle of that target), cuda (ONNX Runtime on an "
        "NVIDIA GPU)",
    )
    parser.add_argument(
        "--gpu", type=int, default=0, metavar="N", help="which GPU, from 0 (default: 0)"
    )
    parser.add_argument(
        "--batch",
        type=int,
        default=1,
        metavar="N",
        help="let up to N sources with the same words share a run of the engine when their frames are "
        "ready at the same time; the bundle must hold a graph for N (default: 1, each alone)",
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
    return parser


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
