"""dedos-bench: what a model costs on paper, and what a bundle costs on this machine."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import get_args

from dedos_deploy.cli._main import EXIT_OK, command_parser, for_people, run_command
from dedos_deploy.cli._options import typed
from dedos_deploy.options import size_hw
from dedos_deploy.presets import (
    DENSE_PRESETS,
    PRESETS,
    CostKind,
    DenseConfig,
    ModelConfig,
    any_preset,
    get_preset,
    with_cost,
)

EPILOG = """\
examples:
  dedos-bench model --preset paper-l               parameters, MACs and memory of one preset
  dedos-bench model --preset paper-l --cost catseg   with the cost aggregation of dedos-train --cost
  dedos-bench model                                the table of all presets
  dedos-bench frame --bundle demo                  seconds per frame, measured here
  dedos-bench frame --bundle edge-b.dedos --slots 171 --size 1080x1920
  dedos-bench frame --preset dense-b --random-weights   the speed of a preset before it has weights
  dedos-bench stages --bundle fp32.dedos int8.dedos --slots 16 171 --size 720x1280 1080x1920
                                                   two bundles side by side: p50, p90, p99 per stage
  dedos-bench stages --bundle l.dedos --engine trt --slots 171 --frames 500 --json
                                                   on a GPU, with its memory, energy and ceilings

`model` runs nothing: it counts on PyTorch's meta device (needs the extra [export]).
`frame` reports process CPU seconds divided by threads, which other programs disturb least, and
wall seconds beside them.
Both label frames as dedos-run does, those of a bundle with tiles through all of its windows.
`stages` runs bundles in turns, frame by frame, after comparing their labels on embedded scenes, and
prints a markdown table: milliseconds of resize, engine and label map, the whole, frames per second,
joules per frame where the board tells, and how much of a large matrix product's speed the engine has.
"""


_PRESETS = PRESETS | DENSE_PRESETS


def build_parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "dedos-bench", "Costs of DEDOS models: counted for presets, measured for bundles.", EPILOG
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="model|frame|stages")
    model = verbs.add_parser("model", help="count parameters, MACs and activation memory")
    model.add_argument("--preset", help=f"one of {', '.join(_PRESETS)}; default: all")
    model.add_argument(
        "--size", type=typed(size_hw), metavar="HxW", help="network size; default: the preset's"
    )
    model.add_argument(
        "--cost",
        choices=get_args(CostKind),
        help="with --preset paper-l or paper-b: strength of the cost aggregation (light)",
    )
    frame = verbs.add_parser("frame", help="measure one frame end to end on this machine")
    frame.add_argument("--bundle", help="bundle, or `demo` (default)")
    frame.add_argument(
        "--preset",
        help=f"in place of a bundle, with --random-weights: one of {', '.join(_PRESETS)}",
    )
    frame.add_argument(
        "--random-weights",
        action="store_true",
        help="export --preset with random weights for the time of the measurement; the peak memory is "
        "then that of the export",
    )
    frame.add_argument(
        "--size",
        type=typed(size_hw),
        metavar="HxW",
        default=(720, 1280),
        help="frame size (720x1280)",
    )
    frame.add_argument("--frames", type=int, default=5, help="timed frames after one warm-up (5)")
    frame.add_argument(
        "--threads", type=int, default=2, help="threads of the engine, at most one per core (2)"
    )
    stages = verbs.add_parser("stages", help="measure bundles side by side, stage by stage")
    stages.add_argument(
        "--bundle", nargs="+", default=["demo"], help="bundles, or `demo` (default)"
    )
    stages.add_argument("--engine", default="cpu", help="cpu (default), openvino, cuda, trt or rtx")
    stages.add_argument("--gpu", type=int, default=0, metavar="N", help="which GPU (0)")
    stages.add_argument(
        "--slots", type=int, nargs="+", default=[171], metavar="K", help="class slots (171)"
    )
    stages.add_argument(
        "--size",
        type=typed(size_hw),
        nargs="+",
        default=[(720, 1280)],
        metavar="HxW",
        help="frame sizes (720x1280)",
    )
    stages.add_argument("--frames", type=int, default=50, help="timed frames of each (50)")
    stages.add_argument(
        "--threads", type=int, help="CPU threads, at most one per usable core (all)"
    )
    stages.add_argument(
        "--json",
        action="store_true",
        help="print one JSON object on stdout, and the text on stderr",
    )
    for verb in (model, frame):
        verb.add_argument("--slots", type=int, default=171, help="class slots K (171)")
        verb.add_argument(
            "--json",
            action="store_true",
            help="print one JSON object on stdout, and the text on stderr",
        )
    return parser


def run(args: argparse.Namespace) -> int:
    return {"model": _run_model, "frame": _run_frame, "stages": _run_stages}[args.verb](args)


def _run_model(args: argparse.Namespace) -> int:
    from dedos_deploy.errors import BadInputError, require

    require("torch", extra="export", purpose="counting a model's cost")
    from dedos_deploy.model.cost import model_cost

    if args.slots < 1:
        raise BadInputError(f"--slots is {args.slots}, but a model needs at least 1")
    configs = _counted(args.preset, args.cost)
    costs = {}
    people = for_people(args)
    print(
        "preset       size     K    trained M  shipped M  CLIP M  GMACs   Table-7 GMACs  peak MB",
        file=people,
    )
    for config in configs:
        size = args.size or config.size_hw
        config.check_size(size)
        cost = costs[config.preset] = model_cost(config, size_hw=size, slots=args.slots)
        print(
            f"{config.preset:12} {size[0]}x{size[1]:<4} {args.slots:<4} "
            f"{cost.parameters_trained / 1e6:9.2f} {cost.parameters_shipped / 1e6:10.2f} "
            f"{cost.parameters_clip / 1e6:7.1f} {cost.macs / 1e9:7.1f} "
            f"{cost.macs_table7 / 1e9:14.1f} {cost.activation_bytes / 1e6:8.0f}",
            file=people,
        )
    if args.preset:
        cost = costs[args.preset]
        print("\npart                 GMACs", file=people)
        for part, count in cost.macs_by_part.items():
            print(f"{part:18} {count / 1e9:7.2f}", file=people)
    if args.json:
        values = {name: asdict(cost) for name, cost in costs.items()}
        print(json.dumps(values[args.preset] if args.preset else values))
    return EXIT_OK


def _counted(preset: str | None, cost: CostKind | None) -> list[ModelConfig | DenseConfig]:
    from dedos_deploy.errors import BadInputError

    if cost is None:
        return [any_preset(preset)] if preset else list(_PRESETS.values())
    if preset is None:
        raise BadInputError(
            "--cost needs to know of which preset; give --preset paper-l or paper-b, too"
        )
    return [with_cost(get_preset(preset), cost)]


def _run_frame(args: argparse.Namespace) -> int:
    from dedos_deploy.bench.timing import time_frames

    with _measured_bundle(args) as bundle:
        times = time_frames(
            bundle,
            frame_hw=args.size,
            slots=args.slots,
            frames=args.frames,
            threads=args.threads,
        )
    seen = f" in {times.windows} windows" if times.windows > 1 else ""
    print(
        f"{times.preset} {times.precision} at {times.network_hw[0]}x{times.network_hw[1]}, "
        f"K={times.slots}, {times.threads} threads, frames of {args.size[0]}x{args.size[1]}{seen}:\n"
        f"  {times.cpu_s_per_thread:.3f} CPU seconds per thread and frame (median of "
        f"{times.frames}); wall {times.wall_s:.3f} s\n"
        f"  wall: resize {times.pre_ms:.1f} ms, engine {times.engine_ms:.1f} ms, "
        f"label map {times.post_ms:.1f} ms; peak memory {times.peak_mb:.0f} MB",
        file=for_people(args),
    )
    if args.json:
        print(json.dumps(asdict(times)))
    return EXIT_OK


@contextmanager
def _measured_bundle(args: argparse.Namespace) -> Iterator[str | Path]:
    """Give the bundle to measure, which is made here and removed again for a preset."""
    from dedos_deploy.errors import BadInputError, require

    if not args.random_weights and args.preset is None:
        yield args.bundle or "demo"
        return
    if args.bundle is not None or not args.random_weights or args.preset is None:
        raise BadInputError(
            "--preset NAME and --random-weights go together, in place of --bundle; give both, or a "
            "bundle alone"
        )
    require("onnxscript", extra="export", purpose="measuring a preset")
    from dedos_deploy.cli._progress import ProgressLines
    from dedos_deploy.export import ExportOptions, WeightsSource, export_bundle

    # Labels of random weights mean nothing, and neither do templates.
    options = ExportOptions(frame_count=1, templates="single", allow_drift=True)
    weights = WeightsSource(preset=args.preset, random=True)
    with tempfile.TemporaryDirectory(prefix="dedos-bench-") as folder:
        dest = Path(folder) / "random.dedos"
        yield export_bundle(weights, dest, options=options, progress=ProgressLines()).path


def _run_stages(args: argparse.Namespace) -> int:
    from dedos_deploy.bench.stages import BenchOptions, markdown, run_bench
    from dedos_deploy.cli._progress import ProgressLines

    options = BenchOptions(
        args.bundle, args.engine, args.slots, args.size, args.frames, args.threads, args.gpu
    )
    lines = ProgressLines()
    with lines.part(1, 1, "measuring"):
        report = run_bench(options, progress=lines)
    print(markdown(report), file=for_people(args))
    if args.json:
        print(json.dumps(asdict(report)))
    return EXIT_OK


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `dedos-bench`; see `--help`."""
    return run_command(build_parser, run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
