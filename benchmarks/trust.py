"""Whether frames that are unlike what a model learned are told from those that are not, by trust and by its
scores alone.

Frames of `--learned` places, held back from the statistics, should be trusted; those of `--other` places
should not, nor the learned ones made dark, behind a hand, out of focus or replaced by noise. For each the
part that is below the line is told, beside what three numbers of the scores tell at a line of their own that
5 % of the learned frames pass: mean confidence, mean share of the best word, mean entropy over words.

    python benchmarks/trust.py --bundle street.dedos --learned val=street/images/val --other hall=walk.mp4
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dedos_deploy import Segmenter
from dedos_deploy.bundle import Bundle
from dedos_deploy.calib.frames import sample_frames
from dedos_deploy.cli._options import typed
from dedos_deploy.errors import BadInputError, DedosError
from dedos_deploy.options import whole_number
from dedos_deploy.spec import TRUST_LINE

Array = NDArray[Any]
ALARMS = 0.05
"""Part of the learned frames that the lines of the scores leave below."""

DARK = 0.18
"""Part of a day's light at night, before noise of 6 grey levels."""

SKIN_BGR = ((105, 135, 200), (80, 110, 175), (60, 85, 140), (45, 60, 105))


@dataclass
class Seen:
    """What is known of the frames of one place."""

    trust: list[float] = field(default_factory=list)
    scores: dict[str, list[float]] = field(default_factory=dict)
    """Higher for frames that are more usual."""


def night(frame: Array, rng: np.random.Generator) -> Array:
    light = (frame.astype(np.float32) / 255) ** 2.2 * DARK
    return _levels(255 * light ** (1 / 2.2) + rng.normal(0, 6, frame.shape))


def noise(frame: Array, rng: np.random.Generator) -> Array:
    return rng.integers(0, 256, frame.shape, np.uint8)


def unfocused(frame: Array, rng: np.random.Generator) -> Array:
    return cv2.GaussianBlur(frame, (0, 0), max(frame.shape) / 20)


def hand(frame: Array, rng: np.random.Generator) -> Array:
    """A palm with five fingers, near enough to fill half of the picture, in front of the frame."""
    height, width = frame.shape[:2]
    side, mask = min(height, width), np.zeros((height, width), np.uint8)
    middle = np.array([width * rng.uniform(0.35, 0.65), height * rng.uniform(0.55, 0.8)])
    axes = (int(0.45 * side), int(0.5 * side))
    cv2.ellipse(mask, tuple(map(int, middle)), axes, 0, 0, 360, 255, -1)
    for finger in range(5):
        angle = np.deg2rad(-150 + 28 * finger + rng.uniform(-6, 6))
        tip = middle + side * rng.uniform(0.7, 0.95) * np.array([np.cos(angle), np.sin(angle)])
        ends = (tuple(map(int, middle)), tuple(map(int, tip)))
        cv2.line(mask, *ends, 255, int(side * rng.uniform(0.13, 0.2)))
    edge = cv2.distanceTransform(mask, cv2.DIST_L2, 5)[..., None] / (0.08 * side)
    skin = np.array(SKIN_BGR[rng.integers(len(SKIN_BGR))]) * (0.6 + 0.4 * edge.clip(0, 1))
    texture = cv2.GaussianBlur(rng.normal(0, 60, (height, width)).astype(np.float32), (0, 0), 2)
    cover = cv2.GaussianBlur(mask, (0, 0), side / 60)[..., None] / 255
    return _levels(frame * (1 - cover) + (skin + texture[..., None]) * cover)


DISTURBED: dict[str, Callable[[Array, np.random.Generator], Array]] = {
    "night": night,
    "hand": hand,
    "unfocused": unfocused,
    "noise": noise,
}


def _levels(values: Array) -> Array:
    return np.clip(values, 0, 255).astype(np.uint8)


def look(segmenter: Segmenter, frames: Sequence[Array]) -> Seen:
    """Label frames and return what is seen; the segmenter keeps its scores."""
    seen = Seen()
    for frame in frames:
        result = segmenter.segment(frame)
        assert result.trust is not None and result.evidence is not None, "by check_asked"
        seen.trust.append(result.trust)
        scores = np.asarray(result.evidence.scores, np.float64)
        shares = scores / scores.sum(0).clip(1e-6)
        for name, value in (
            ("confidence", scores.max(0).mean()),
            ("share", shares.max(0).mean()),
            ("entropy", (shares * np.log(shares + 1e-9)).sum(0).mean()),
        ):
            seen.scores.setdefault(name, []).append(float(value))
    return seen


def compared(learned: dict[str, Seen], other: dict[str, Seen]) -> dict[str, Any]:
    """Return the part of each place's frames that lies below the line of trust, and of the scores."""
    names = list(next(iter(learned.values())).scores)
    lines = {
        name: float(
            np.quantile([v for seen in learned.values() for v in seen.scores[name]], ALARMS)
        )
        for name in names
    }

    def parts(seen: Seen) -> dict[str, Any]:
        below = {name: np.mean(np.less(seen.scores[name], line)) for name, line in lines.items()}
        return {
            "frames": len(seen.trust),
            "mean_confidence": float(np.mean(seen.scores["confidence"])),
            "median_trust": float(np.median(seen.trust)),
            "trust": float(np.mean(np.less(seen.trust, TRUST_LINE))),
            **{name: float(value) for name, value in below.items()},
        }

    every = [value for seen in learned.values() for value in seen.trust]
    return {
        "false_alarms": float(np.mean(np.less(every, TRUST_LINE))),
        "learned": {name: parts(seen) for name, seen in learned.items()},
        "other": {name: parts(seen) for name, seen in other.items()},
    }


def check_asked(bundle: Bundle, args: argparse.Namespace) -> None:
    """Raise BadInputError for a bundle without trust, and for two places of one name."""
    if bundle.trust() is None:
        raise BadInputError(
            f"bundle {bundle.name!r} has no statistics of learned frames; export it with --trust"
        )
    for places, taken in ((args.learned, ()), (args.other, tuple(DISTURBED))):
        names = [*taken, *(name for name, _ in places)]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise BadInputError(f"{twice!r} names two kinds of frames; give each another name")


def measured(args: argparse.Namespace) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    with Bundle.open(args.bundle) as bundle:
        check_asked(bundle, args)
        words = args.classes or list(bundle.base_words)
        with Segmenter.load(bundle, classes=words, threads=args.threads, explain=True) as segmenter:
            frames = {name: sample_frames(path, count=args.frames) for name, path in args.learned}
            learned = {name: look(segmenter, some) for name, some in frames.items()}
            other = {
                name: look(segmenter, sample_frames(path, count=args.frames))
                for name, path in args.other
            }
            for kind, disturb in DISTURBED.items():
                made = [disturb(frame, rng) for some in frames.values() for frame in some[::4]]
                other[kind] = look(segmenter, made)
    return compared(learned, other)


def table(report: dict[str, Any]) -> str:
    head = f"{'frames of':22} {'frames':>6} {'confidence':>10} {'trust':>6}   below the line of: "
    lines = [head + "trust  confidence  share  entropy"]
    for group in ("learned", "other"):
        for name, row in report[group].items():
            below = "  ".join(
                f"{row[key]:6.0%}" for key in ("trust", "confidence", "share", "entropy")
            )
            lines.append(
                f"{name:22} {row['frames']:6} {row['mean_confidence']:10.2f} {row['median_trust']:6.2f}"
                f"{'':23}{below}"
            )
    return "\n".join([*lines, f"false alarms on learned frames: {report['false_alarms']:.1%}"])


def named(text: str) -> tuple[str, str]:
    name, _, path = text.partition("=")
    if not (name and path):
        raise argparse.ArgumentTypeError(f"{text!r} names no place; write NAME=PATH")
    return name, path


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--bundle", default="demo", help="exported with --trust (demo)")
    parser.add_argument("--classes", help="words (all of the bundle's base vocabulary)")
    parser.add_argument(
        "--learned", action="extend", nargs="+", type=named, required=True, metavar="NAME=PATH"
    )
    parser.add_argument(
        "--other", action="extend", nargs="+", type=named, default=[], metavar="NAME=PATH"
    )
    parser.add_argument(
        "--frames", type=typed(whole_number()), default=40, help="at most, of each place (40)"
    )
    parser.add_argument("--threads", type=typed(whole_number()), default=1)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    try:
        report = measured(args)
    except DedosError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(report) if args.json else table(report))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
