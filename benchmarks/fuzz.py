"""What gets through when everything that comes from outside is damaged: counts, and every finding.

Bundles, graphs, recordings, pictures, checkpoints, requests and arguments of the native module are
made by this project, damaged at random from a seed, and taken in by a process that is bound in
memory and time. A refusal is one of the project's own errors; a signal, a hang, memory above the
bound, any other exception, an answer 5xx or a wrong result is a finding, and the exit code is then 1.
Case N of a subject depends on the seed and N alone and is repeated by what the finding says.

    python benchmarks/fuzz.py --minutes 10
    python benchmarks/fuzz.py --minutes 60 --seed 7 --only recordings,pictures --keep findings
    python benchmarks/fuzz.py --seed 7 --only pictures --case 1234
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import signal
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from fuzzing.api import Api
from fuzzing.bundles import Bundles
from fuzzing.campaign import Campaign, FuzzingFailed, run_all
from fuzzing.checkpoints import Checkpoints
from fuzzing.graphs import Graphs
from fuzzing.native_calls import NativeCalls
from fuzzing.pictures import Pictures
from fuzzing.recordings import Recordings
from fuzzing.subject import Subject
from fuzzing.tally import Tally, table

from dedos_deploy.cli._options import typed
from dedos_deploy.options import real_number, whole_number

SUBJECTS: dict[str, type[Subject]] = {
    kind.name: kind
    for kind in (Bundles, Graphs, Recordings, Pictures, NativeCalls, Api, Checkpoints)
}
INTERRUPTED = 130


def report(args: argparse.Namespace, tallies: Sequence[Tally]) -> dict[str, Any]:
    """Return all counts as JSON has them."""
    return {
        "seed": args.seed,
        "machine": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "subjects": {one.subject: one.to_dict() for one in tallies},
    }


def campaigns(args: argparse.Namespace, scratch: Path) -> list[Campaign]:
    """Return a campaign for each subject that is asked for."""
    chosen = []
    for name in args.only:
        one = Campaign(SUBJECTS[name](), args.seed, scratch / name)
        if args.keep is not None and args.case is None:
            one.on_finding = partial(_keep, args, one)
        chosen.append(one)
    return chosen


def _keep(args: argparse.Namespace, campaign: Campaign, case: int) -> None:
    campaign.keep(case, args.keep / f"{campaign.subject.name}-{args.seed}-{case}")


def fuzz(args: argparse.Namespace, scratch: Path) -> int:
    """Run everything that is asked for, say what came of it, and return the exit code."""
    tallies: list[Tally] = []
    code = 0
    seconds = math.inf if args.cases is not None else 60 * args.minutes
    try:
        for tally in run_all(campaigns(args, scratch), seconds, args.cases):
            _say(f"{tally.subject}, seed {args.seed}")
            tallies.append(tally)
    except KeyboardInterrupt:
        code = INTERRUPTED
    except FuzzingFailed as error:
        _say(f"error: {error}")
        code = 2
    print(table(tallies))
    if args.json is not None:
        args.json.write_text(json.dumps(report(args, tallies), indent=2) + "\n")
    return 1 if any(tally.findings for tally in tallies) and code != 2 else code


def repeat(args: argparse.Namespace, scratch: Path) -> int:
    """Run one case again, say what became of it, and return the exit code."""
    (campaign,) = campaigns(args, scratch)
    campaign.prepare()
    outcome = campaign.repeat(args.case)
    print(f"case {args.case} of {args.only[0]}: {outcome.verdict} {outcome.error}".rstrip())
    for line in (outcome.where, outcome.text):
        if line:
            print(f"  {line}")
    if args.keep is not None:
        _keep(args, campaign, args.case)
    return 1 if outcome.is_finding else 0


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    length = parser.add_mutually_exclusive_group()
    length.add_argument(
        "--minutes",
        type=typed(real_number(above=0)),
        default=1.0,
        metavar="N",
        help="for all subjects together, what they need to start not counted (default: 1)",
    )
    length.add_argument(
        "--cases",
        type=typed(whole_number()),
        metavar="N",
        help="of each subject, however long it takes",
    )
    parser.add_argument("--seed", type=typed(whole_number(0)), default=0, help="default: 0")
    parser.add_argument(
        "--only",
        type=_subjects,
        default=list(SUBJECTS),
        metavar="A,B",
        help=f"of {', '.join(SUBJECTS)} (default: all)",
    )
    parser.add_argument(
        "--case",
        type=typed(whole_number(0)),
        metavar="N",
        help="run this case of one subject alone",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all counts there")
    parser.add_argument(
        "--keep",
        type=Path,
        metavar="DIR",
        help="write the input of every kind of finding, or of --case, there",
    )
    return parser


def _subjects(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in SUBJECTS:
            raise argparse.ArgumentTypeError(
                f"unknown subject {name!r}; choose from {', '.join(SUBJECTS)}"
            )
    return names


def _say(text: str) -> None:
    print(f"fuzz: {text}", file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    if args.case is not None and len(args.only) != 1:
        _say("error: --case needs one subject in --only")
        return 2
    if args.json is not None and not args.json.parent.is_dir():
        _say(f"error: the folder of --json {args.json} does not exist; create it first")
        return 2
    # Threads do not survive the forks, and one core is enough.
    os.environ |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    # A run that is ended by `timeout` or a service prints what it has, as with Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="dedos-fuzz-") as folder:
        try:
            return (fuzz if args.case is None else repeat)(args, Path(folder))
        except FuzzingFailed as error:
            _say(f"error: {error}")
            return 2


if __name__ == "__main__":
    sys.exit(main())
