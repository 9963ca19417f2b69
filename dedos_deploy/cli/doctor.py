"""dedos-doctor: what this machine has for running bundles, and what to do about the rest."""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Sequence
from dataclasses import asdict

from dedos_deploy.cli._main import EXIT_OK, EXIT_USER_ERROR, command_parser, run_command
from dedos_deploy.errors import package_folder
from dedos_deploy.spec import ENGINES

EPILOG = """\
examples:
  dedos-doctor                  look at everything
  dedos-doctor --engine trt     exit code 2 unless TensorRT can run here
  dedos-doctor --json           the same as one JSON object, to attach to a report
  dedos-doctor --weights        published weights: what could be fetched, what is here and whole

verdicts: ok, note (missing, and only some uses need it), bad (broken)"""

WIDTH = 100
INDENT = " " * 5
MARKS = {"ok": "ok  ", "note": "note", "bad": "BAD "}


def build_parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "dedos-doctor",
        "Look at GPU, driver, TensorRT, ONNX Runtime, OpenCV, cameras and memory, label "
        "one frame, and say what to do.",
        EPILOG,
    )
    looked_at = parser.add_mutually_exclusive_group()
    looked_at.add_argument(
        "--engine",
        choices=ENGINES,
        default="cpu",
        help="which engine must be able to run for exit code 0 (default: cpu)",
    )
    looked_at.add_argument(
        "--weights",
        action="store_true",
        help="look at published weights instead: presets, tags, size, licence, address, and whether "
        "they are cached and whole; exit code 2 if one is damaged",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def run(args: argparse.Namespace) -> int:
    """Look, print, and return 0 if the engine can run here, else 2."""
    from dedos_deploy.runtime.doctor import examine, usable
    from dedos_deploy.runtime.opencv import silence_ffmpeg

    if args.weights:
        return _weights(as_json=args.json)
    silence_ffmpeg()
    findings = examine()
    fit = usable(findings, args.engine)
    if args.json:
        report = {
            "engine": args.engine,
            "usable": fit,
            "findings": [asdict(finding) for finding in findings],
        }
        print(json.dumps(report, ensure_ascii=False))
        return EXIT_OK if fit else EXIT_USER_ERROR
    width = max(len(finding.topic) for finding in findings)
    for finding in findings:
        lead = f"{MARKS[finding.verdict]} {finding.topic:<{width}}  "
        print(_wrapped(finding.found, lead))
        if finding.advice:
            print(_wrapped(f"→ {finding.advice}", " " * len(lead)))
    verdict = "can" if fit else "cannot"
    print(f"\nthe {args.engine} engine {verdict} run on this machine")
    return EXIT_OK if fit else EXIT_USER_ERROR


def _weights(*, as_json: bool) -> int:
    """Print what is known of published weights, return 2 if a cached file is damaged, else 0."""
    # The list is made of what the towers' shapes say, which is torch's side of the package.
    for module in ("torch", "open_clip"):
        package_folder(module, extra="export", purpose="listing published weights")
    from dedos_deploy.cli._doctor_weights import weight_findings

    findings, report = weight_findings()
    if as_json:
        print(json.dumps(report, ensure_ascii=False))
    else:
        for finding in findings:
            # What they are called is too long for a column.
            print(f"{MARKS[finding.verdict]} {finding.topic}")
            print(_wrapped(finding.found, INDENT))
            if finding.advice:
                print(_wrapped(f"→ {finding.advice}", INDENT))
    whole = all(finding.verdict != "bad" for finding in findings)
    return EXIT_OK if whole else EXIT_USER_ERROR


def _wrapped(text: str, lead: str) -> str:
    return textwrap.fill(
        text,
        WIDTH,
        initial_indent=lead,
        subsequent_indent=" " * len(lead),
        break_long_words=False,
        break_on_hyphens=False,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `dedos-doctor`; see `--help`."""
    return run_command(build_parser, run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
