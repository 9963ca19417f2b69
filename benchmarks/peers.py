"""SAN and CAT-Seg, read by us, against their authors' own modules with the same random weights.

The authors' module is built from a checkout of their repository, which stays outside this project;
its state dict is saved, read back by our reader, and both run on the same picture: largest difference
of the scores, share of pixels with the same label, and seconds of both cores of the eager module, of
ours, and of our graph in ONNX Runtime. `--golden` writes a small model of theirs with what it
computes, which the tests keep; `--checkpoint` one of true size, for dedos-export to read.

    pip install --target AUTHORS open_clip_torch==2.16.0 einops --no-deps
    PYTHONPATH=AUTHORS python benchmarks/peers.py san --repository SAN --size b --json
    PYTHONPATH=AUTHORS python benchmarks/peers.py san --repository SAN --golden tests/model/san_micro.npz
    PYTHONPATH=AUTHORS python benchmarks/peers.py san --repository SAN --checkpoint san_b.pth
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from pathlib import Path

import torch
from parity.comparison import compare, write_checkpoint
from parity.golden import write_golden
from parity.models import BUILDERS

from dedos_deploy import __version__
from dedos_deploy.cli._options import typed
from dedos_deploy.errors import DedosError
from dedos_deploy.options import whole_number


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("peer", choices=sorted(BUILDERS))
    parser.add_argument("--repository", type=Path, required=True, help="checkout of the authors'")
    parser.add_argument("--size", choices=("b", "l"), default="b")
    parser.add_argument(
        "--runs", type=typed(whole_number()), default=3, help="of which the fastest counts"
    )
    others = parser.add_mutually_exclusive_group()
    others.add_argument("--golden", type=Path, help="write golden tensors instead of comparing")
    others.add_argument("--checkpoint", type=Path, help="write random weights of --size instead")
    parser.add_argument("--json", action="store_true")
    return parser


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    try:
        if args.golden is not None:
            write_golden(args.peer, args.repository, args.golden)
            return 0
        if args.checkpoint is not None:
            write_checkpoint(args.peer, args.size, args.repository, args.checkpoint)
            return 0
        found = compare(args.peer, args.size, args.repository, runs=args.runs)
    except DedosError as error:
        print(f"peers: error: {error}", file=sys.stderr)
        return 2
    found |= {"version": __version__, "torch": torch.__version__, "machine": platform.machine()}
    if args.json:
        print(json.dumps(found, indent=1))
    else:
        print("\n".join(f"{key:24} {value}" for key, value in found.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
