"""dedos-export: a checkpoint as a bundle for a target, with proof that it still labels the same."""

from __future__ import annotations

import argparse
import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dedos_deploy.calib.options import INT8_OPTIONS, Int8Options
from dedos_deploy.cli._export_triton import (
    check_nothing_to_export,
    model_written,
    serving_line,
    triton_options,
    write_model,
)
from dedos_deploy.cli._main import command_parser, run_command
from dedos_deploy.cli._options import add_options, bundle_holds, data_read, fields_of
from dedos_deploy.errors import BadInputError, require
from dedos_deploy.export.options import (
    EXPORT_OPTIONS,
    GATE_OPTIONS,
    GRAPH_OPTIONS,
    OVERWRITE,
    WEIGHT_OPTIONS,
    WORD_OPTIONS,
    ExportOptions,
)
from dedos_deploy.export.triton_options import TRITON_OPTIONS, TritonOptions
from dedos_deploy.places import Written, check_apart, named

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
  dedos-export --preset dense-b --clip-weights openai --precision fp16 --output any.dedos
                                                          any words, by a published CLIP
  dedos-export --preset dense-b-gelu --clip-weights laion2b_s34b_b88k --windows 224/112
  dedos-export --from san:san_vit_b_16.pth                SAN as its authors published it
  dedos-export --preset edge-b --random-weights           to measure size and speed only
  dedos-export --bundle any.dedos --triton models         a bundle that is there, as a model of Triton

Before anything is written, the exported graph labels --frames beside the FP32 model; a bundle
whose labels differ on more than 0.1 % (fp32) or 1 % (fp16) of pixels is refused.
"""


def build_parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "dedos-export",
        "Write a bundle: the image graph, the text tower and their proof of parity.",
        _EPILOG,
    )
    add_options(parser.add_argument_group("weights"), WEIGHT_OPTIONS)
    graph = parser.add_argument_group("graph")
    add_options(graph, GRAPH_OPTIONS)
    add_options(parser.add_argument_group("words"), WORD_OPTIONS)
    graph.add_argument(
        "--device",
        action="store_true",
        help="also build the trt or rtx engine for the GPU of this machine and check it there, which "
        "the first dedos-run does otherwise",
    )
    add_options(parser.add_argument_group("parity gate"), GATE_OPTIONS)
    add_options(parser.add_argument_group("int8"), INT8_OPTIONS)
    output = parser.add_argument_group("output")
    output.add_argument(
        "--output",
        metavar="PATH",
        help="a folder, or a file ending in .dedos (default: such as nano-fp32-cpu.dedos)",
    )
    add_options(output, [OVERWRITE])
    output.add_argument("--json", action="store_true", help="print the report as JSON")
    triton = parser.add_argument_group("triton")
    add_options(triton, TRITON_OPTIONS)
    triton.add_argument(
        "--bundle",
        metavar="PATH",
        help="the bundle of the model, a folder, a file or 'demo', instead of one that is exported",
    )
    return parser


def run(args: argparse.Namespace) -> int:
    """Export and print the report."""
    triton = triton_options(args)
    if args.bundle is not None:
        assert triton is not None, "by triton_options"
        return _write_model_only(args, triton)
    return _export(args, triton)


def _write_model_only(args: argparse.Namespace, triton: TritonOptions) -> int:
    check_nothing_to_export(args)
    folder = write_model(args, triton, args.bundle)
    print(json.dumps({"triton": str(folder)}) if args.json else serving_line(folder))
    return 0


def _export(args: argparse.Namespace, triton: TritonOptions | None) -> int:
    from dedos_deploy.cli._progress import ProgressLines
    from dedos_deploy.vocabulary import typed_vocabulary

    given = fields_of(args, EXPORT_OPTIONS)
    if "vocabulary" in given:
        given["vocabulary"] = vocabulary = typed_vocabulary(given["vocabulary"])
        if vocabulary.tuned is not None:
            raise BadInputError(
                f"--vocabulary takes words, and {vocabulary.tuned.file!r} has rows of a model that is "
                "exported already; give it to dedos-run --classes"
            )
    options = ExportOptions(**given, int8=_int8(args))
    require("torch", extra="export", purpose="exporting a model")
    require("onnxscript", extra="export", purpose="exporting a model")
    from dedos_deploy.export import WeightsSource, export_bundle

    if args.device:
        _require_device(options.target)
    weights = WeightsSource(**fields_of(args, WEIGHT_OPTIONS))
    dest = args.output or _default_output(weights, options)
    _check_places(args, dest, triton)
    report = export_bundle(weights, dest, options=options, progress=ProgressLines())
    own_frames = options.keep_frames and options.frames is not None
    values, summary = report.to_dict(), _summary(report, own_frames=own_frames)
    if args.device:
        values["device"] = facts = _prepare_device(report.path, options.target)
        summary += (
            f"\n  device     {facts['device']} (SM {facts['compute_capability']}): engine built, labels "
            "as ONNX Runtime's"
        )
    if triton is not None:
        folder = write_model(args, triton, report.path)
        values["triton"] = str(folder)
        summary += "\n" + serving_line(folder)
    print(json.dumps(values) if args.json else summary)
    return 0


def _check_places(args: argparse.Namespace, dest: str, triton: TritonOptions | None) -> None:
    """Raise BadInputError where the bundle or the table would lie over what is read."""
    from dedos_deploy.runtime.sources.opening import read_from

    written = [Written(f"output {dest!r}", Path(dest), bundle_holds(dest))]
    if args.calib_table is not None:
        written.append(Written(f"calibration table {args.calib_table!r}", Path(args.calib_table)))
    if triton is not None:
        written.append(model_written(args, triton, dest))
    published = fields_of(args, WEIGHT_OPTIONS).get("published")
    files = (args.checkpoint, args.clip_weights, published.path if published else None)
    weights = named("checkpoint", *files)
    given = (args.frames, args.calib, *(args.trust or ()))
    frames = [read_from(uri) for uri in given if uri is not None]
    words = named("vocabulary", args.vocabulary, triton.classes if triton else None)
    check_apart(written, [*weights, *frames, *words, *data_read(args.labels)])


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
    from dedos_deploy.cli._progress import ProgressLines
    from dedos_deploy.runtime.gpu.engine_store import EngineStore

    lines = ProgressLines()
    with (
        Bundle.open(bundle) as opened,
        lines.part(1, 1, f"preparing the {target} engine on this device"),
        EngineStore(opened, target, on_progress=lines).open() as engine,
    ):
        return engine.facts()


def _int8(args: argparse.Namespace) -> Int8Options | None:
    if args.calib is None:
        for name in ("calib_table", "labels"):
            if getattr(args, name) is not None:
                raise BadInputError(f"--{name.replace('_', '-')} goes with --calib; give both")
        return None
    return Int8Options(**fields_of(args, INT8_OPTIONS))


def main(argv: Sequence[str] | None = None) -> int:
    """Run dedos-export and return its exit code."""
    return run_command(build_parser, run, argv)


def _default_output(weights: WeightsSource, options: ExportOptions) -> str:
    return f"{weights.name}-{options.precision}-{options.target}.dedos"


def _summary(report: ExportReport, *, own_frames: bool) -> str:
    """own_frames: the bundle holds frames of the user's, which whoever gets it can see."""
    from dedos_deploy.bundle import MOST_PARITY_FRAMES

    parity = report.parity
    lines = [
        f"{report.path}: {report.size / 1e6:.1f} MB",
        f"  parity     {parity.agreement:.2%} of pixels agree with the FP32 model "
        f"(at least {parity.min_agreement:.1%}), scores within {parity.max_abs:.2g}, "
        f"{parity.frames} frames: {parity.frames_from}",
        f"  text       cosine ≥ {report.text.min_cosine:.5f} to the FP32 tower",
    ]
    lines += [
        f"  batch {more.batch:<4} {more.agreement:.2%} of pixels agree with the FP32 model, scores within "
        f"{more.max_abs:.2g}, every row of {more.batch} frames per run"
        for more in report.batches
    ]
    if report.trust is not None:
        kinds = report.trust.frames
        lines.append(
            f"  trust      by {sum(kinds.values())} frames of {len(kinds)} kinds; 5 % of such frames look odd"
        )
    if own_frames:
        kept = min(MOST_PARITY_FRAMES, parity.frames)
        lines.insert(
            2, f"  frames     {kept} of yours are in the bundle; --no-frames leaves them out"
        )
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
    path, words = shlex.quote(str(report.path)), shlex.quote(",".join(_words_to_try(report.path)))
    lines.append(f"run it: dedos-run --bundle {path} --source VIDEO --classes {words}")
    return "\n".join(lines)


def _words_to_try(path: Path) -> Sequence[str]:
    """Return a few words that the bundle knows by heart, or some of a street."""
    from dedos_deploy.bundle import Bundle

    with Bundle.open(path, verify=False) as bundle:
        plain = [word for word in bundle.base_words if re.fullmatch(r"[\w -]+", word)]
    return plain[:3] or ("car", "road")


if __name__ == "__main__":
    raise SystemExit(main())
