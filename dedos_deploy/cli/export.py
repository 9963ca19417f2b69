"""dedos-export: a checkpoint as a bundle for a target, with proof that it still labels the same."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dedos_deploy.calib.options import ESTIMATORS, Int8Options
from dedos_deploy.cli._main import run_command, size_hw
from dedos_deploy.errors import BadInputError, require
from dedos_deploy.export.options import STORAGES, ExportOptions
from dedos_deploy.presets import PRESETS
from dedos_deploy.spec import PRECISIONS, TARGETS
from dedos_deploy.text.templates import TEMPLATES

if TYPE_CHECKING:
    from dedos_deploy.export import ExportReport, WeightsSource

_EPILOG = """\
targets:
  cpu    ONNX Runtime on any machine
  rtx    TensorRT for RTX: an engine for RTX 30, 40 and 50 is built here, no GPU needed
  trt    TensorRT: the typed graph; the engine is built on the device at its first run
  cuda   ONNX Runtime on an NVIDIA GPU

examples:
  dedos-export --preset nano                              the embedded weights, for this CPU
  dedos-export --checkpoint run/last.safetensors --size 384x640 --frames drive.mp4
  dedos-export --checkpoint run/last.safetensors --target rtx --precision fp16
  dedos-export --checkpoint run/last.safetensors --precision int8 --calib drive.mp4
  dedos-export --preset edge-b --random-weights           to measure size and speed only

Before anything is written, the exported graph labels --frames beside the FP32 model; a bundle
whose labels differ on more than 0.1 % (fp32) or 1 % (fp16) of pixels is refused.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of dedos-export."""
    default = ExportOptions()
    weights = parser.add_argument_group("weights")
    weights.add_argument("--checkpoint", metavar="FILE", help="a file written by dedos-train")
    weights.add_argument(
        "--preset",
        metavar="NAME",
        help=f"one of {', '.join(PRESETS)}; alone, only nano has embedded weights",
    )
    weights.add_argument(
        "--random-weights",
        action="store_true",
        help="random weights of --preset, for sizing; their fp16 labels hang on tiny margins, so add "
        "--allow-drift",
    )
    graph = parser.add_argument_group("graph")
    graph.add_argument(
        "--target", choices=TARGETS, default=default.target, help="default: %(default)s"
    )
    graph.add_argument(
        "--precision", choices=PRECISIONS, default=default.precision, help="default: %(default)s"
    )
    graph.add_argument(
        "--storage",
        choices=STORAGES,
        default=default.storage,
        help="weights in the file: as computed with, or float16 for half the size at the same "
        "speed (default: %(default)s)",
    )
    graph.add_argument(
        "--size", type=size_hw, metavar="HxW", help="network size in pixels (default: as trained)"
    )
    graph.add_argument(
        "--batch", type=int, default=default.batch, metavar="N", help="images per run (default: 1)"
    )
    graph.add_argument(
        "--compute-capabilities",
        default=",".join(default.compute_capabilities),
        metavar="LIST",
        help="GPUs of an rtx engine (default: %(default)s)",
    )
    words = parser.add_argument_group("words")
    words.add_argument(
        "--vocabulary",
        "--classes",
        metavar="WORDS",
        help="base vocabulary shipped with embeddings: 'car|automobile,road' or a text file "
        "(default: the checkpoint's words)",
    )
    words.add_argument(
        "--templates",
        choices=tuple(TEMPLATES),
        default=default.templates,
        help="prompt templates (default: %(default)s)",
    )
    words.add_argument(
        "--threshold",
        type=float,
        metavar="T",
        help="score in [0, 1] below which a pixel stays unlabelled (default: the checkpoint's)",
    )
    graph.add_argument(
        "--device",
        action="store_true",
        help="also build the trt or rtx engine for the GPU of this machine and check it there, which "
        "the first dedos-run does otherwise",
    )
    gate = parser.add_argument_group("parity gate")
    gate.add_argument(
        "--frames",
        metavar="PATH",
        help="picture, folder or video to compare on (default: embedded scenes)",
    )
    gate.add_argument(
        "--frame-count",
        type=int,
        default=default.frame_count,
        metavar="N",
        help="how many frames to compare (default: %(default)s)",
    )
    gate.add_argument(
        "--allow-drift", action="store_true", help="write the bundle even if the gate refuses"
    )
    _add_int8(parser.add_argument_group("int8"))
    output = parser.add_argument_group("output")
    output.add_argument(
        "--output",
        metavar="PATH",
        help="a folder, or a file ending in .dedos (default: such as nano-fp32-cpu.dedos)",
    )
    output.add_argument("--overwrite", action="store_true", help="replace a bundle that is there")
    output.add_argument("--json", action="store_true", help="print the report as JSON")


def run(args: argparse.Namespace) -> int:
    """Export and print the report."""
    from dedos_deploy.cli._stages import StageLines
    from dedos_deploy.vocabulary import typed_vocabulary

    options = ExportOptions(
        precision=args.precision,
        storage=args.storage,
        target=args.target,
        size_hw=args.size,
        batch=args.batch,
        frames=args.frames,
        frame_count=args.frame_count,
        vocabulary=typed_vocabulary(args.vocabulary) if args.vocabulary is not None else None,
        templates=args.templates,
        threshold=args.threshold,
        int8=_int8(args),
        compute_capabilities=tuple(args.compute_capabilities.split(",")),
        overwrite=args.overwrite,
        allow_drift=args.allow_drift,
    )
    require("torch", extra="export", purpose="exporting a model")
    require("onnxscript", extra="export", purpose="exporting a model")
    from dedos_deploy.export import WeightsSource, export_bundle

    if args.device:
        _require_device(args.target)
    weights = WeightsSource(args.checkpoint, args.preset, args.random_weights)
    dest = args.output or _default_output(weights, options)
    report = export_bundle(weights, dest, options=options, progress=StageLines())
    values, summary = report.to_dict(), _summary(report)
    if args.device:
        values["device"] = facts = _prepare_device(report.path, args.target)
        summary += (
            f"\n  device     {facts['device']} (SM {facts['compute_capability']}): engine built, labels "
            "as ONNX Runtime's"
        )
    print(json.dumps(values) if args.json else summary)
    return 0


def _require_device(target: str) -> None:
    """Raise before minutes of export are spent when no engine can be built here."""
    from dedos_deploy.runtime.gpu.cuda import Cuda
    from dedos_deploy.runtime.gpu.flavours import FLAVOURS

    if target not in FLAVOURS:
        raise BadInputError(f"--device goes with --target trt or rtx, not {target}")
    FLAVOURS[target].load(f"building an engine for --target {target}")
    Cuda.open()


def _prepare_device(bundle: Path, target: str) -> dict[str, Any]:
    """Build and check the engine of this device; return its facts."""
    from dedos_deploy.bundle import Bundle
    from dedos_deploy.cli._stages import StageLines
    from dedos_deploy.runtime.gpu.engine_store import EngineStore

    lines = StageLines()
    with Bundle.open(bundle) as opened:
        lines.begin(1, 1, f"preparing the {target} engine on this device")
        ready = False
        try:
            with EngineStore(opened, target, on_progress=lines.note).open() as engine:
                facts = engine.facts()
            ready = True
        finally:
            lines.end(completed=ready)
    return facts


def _add_int8(group: argparse._ArgumentGroup) -> None:
    default = Int8Options("")
    group.add_argument(
        "--calib",
        metavar="SOURCE",
        help="what to calibrate on: folder, glob, video, camera or stream, of pictures like those the "
        "engine will see; needed for int8",
    )
    group.add_argument(
        "--calib-frames",
        type=int,
        default=default.frames,
        metavar="N",
        help="how many of its frames (default: %(default)s)",
    )
    group.add_argument(
        "--calib-table",
        metavar="FILE",
        help="calibration table: used again when it is there and fits, written otherwise; an "
        "interrupted calibration goes on from beside it",
    )
    group.add_argument(
        "--estimator",
        choices=ESTIMATORS,
        default=default.estimator,
        help="of ranges (default: %(default)s)",
    )
    group.add_argument(
        "--calib-seed",
        type=int,
        default=default.seed,
        metavar="N",
        help="other seeds take other frames",
    )
    group.add_argument(
        "--int8-budget",
        type=float,
        default=default.budget,
        metavar="PART",
        help="part of mean IoU, or of the pixels' labels without --labels, that may be lost; layers go "
        "back to float until it holds (default: %(default)s)",
    )
    group.add_argument(
        "--smoothing",
        action=argparse.BooleanOptionalAction,
        default=default.smoothing,
        help="move outliers of LayerNorm into weights (default: yes)",
    )
    group.add_argument(
        "--labels",
        metavar="FOLDER",
        help="label folder on which the verdict compares mean IoU; without one it compares labels",
    )
    group.add_argument(
        "--labels-split",
        default=default.labels_split,
        metavar="NAME",
        help="its split (default: %(default)s)",
    )
    group.add_argument(
        "--force-int8", action="store_true", help="write INT8 whatever the verdict is"
    )


def _int8(args: argparse.Namespace) -> Int8Options | None:
    if args.calib is None:
        for name in ("calib_table", "labels"):
            if getattr(args, name) is not None:
                raise BadInputError(f"--{name.replace('_', '-')} goes with --calib; give both")
        return None
    return Int8Options(
        args.calib,
        frames=args.calib_frames,
        seed=args.calib_seed,
        estimator=args.estimator,
        table=args.calib_table,
        labels=args.labels,
        labels_split=args.labels_split,
        budget=args.int8_budget,
        smoothing=args.smoothing,
        force=args.force_int8,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run dedos-export and return its exit code."""
    return run_command(build_parser, run, argv)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dedos-export",
        description="Write a bundle: the image graph, the text tower and their proof of parity.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser)
    return parser


def _default_output(weights: WeightsSource, options: ExportOptions) -> str:
    return f"{weights.name}-{options.precision}-{options.target}.dedos"


def _summary(report: ExportReport) -> str:
    parity = report.parity
    lines = [
        f"{report.path}: {report.size / 1e6:.1f} MB",
        f"  parity     {parity.agreement:.2%} of pixels agree with the FP32 model "
        f"(at least {parity.min_agreement:.1%}), scores within {parity.max_abs:.2g}, "
        f"{parity.frames} frames: {parity.frames_from}",
        f"  text       cosine ≥ {report.text.min_cosine:.5f} to the FP32 tower",
    ]
    if report.int8 is not None:
        plan = report.int8.plan
        lines.append(f"  int8       {report.int8.verdict}")
        lines.append(
            f"             {len(plan.sites)} layers in INT8, {len(plan.given_back)} given back; "
            f"{report.int8.frames} frames, {report.int8.checked} to check; {report.int8.skipped}"
        )
    if report.engine is not None:
        key = report.engine.key
        lines.append(
            f"  engine     {key.flavour} {key.version}, K = {'/'.join(map(str, key.profiles))}, "
            f"SM {', '.join(key.compute_capabilities)}, {report.engine.size / 1e6:.1f} MB"
        )
    lines.append(f"run it: dedos-run --bundle {report.path} --source VIDEO --classes 'car,road'")
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
