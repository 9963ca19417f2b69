"""What it costs to say why pixels have their labels, beside labelling them, on labelled images.

First every label of a grid of pixels is compared with the first candidate of `Segmentation.top` there.
Then, image by image: the CPU time of the copy of the scores that a result keeps, as a part of that of
labelling the frame, and of what an image's record has of words that would have to move, as a part of
labelling and counting the image. The network's own time varies by more than either, so what is added is
timed without it: the same prediction is counted with its scores and without. Medians over images, and the
time of one `top`.

    python benchmarks/explaining.py camvid --images 20 --json
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.cli._options import typed
from dedos_deploy.errors import BadInputError, DedosError
from dedos_deploy.evaluation.data import EvaluationData, open_data
from dedos_deploy.evaluation.evaluate import evaluate_image
from dedos_deploy.evaluation.predictors import Prediction, open_bundle_predictor
from dedos_deploy.options import whole_number
from dedos_deploy.runtime import Segmentation, Segmenter
from dedos_deploy.threads import usable_threads

GRID = 12
"""Pixels along either side of an image that are asked for."""


def check(result: Segmentation) -> int:
    """Return how many pixels were asked for; raises BadInputError where a label is not explained."""
    height, width = result.label_map.shape
    places = [(y, x) for y in range(0, height, GRID) for x in range(0, width, GRID)]
    for y, x in places:
        first = next(row for row in result.top(y, x) if row.kind != "null")
        label = int(result.label_map[y, x])
        named = None if label == result.none_id else result.classes[label]
        if named != (first.name if first.kind == "word" else None):
            raise BadInputError(f"pixel {(y, x)} is {named}, but explained as {first}")
    return len(places)


def cpu_s(work: Callable[[], object]) -> float:
    before = time.process_time()
    work()
    return time.process_time() - before


class Known:
    """A predictor that knows its answer."""

    name, identity, taught = "known", dict[str, Any](), None

    def __init__(self, prediction: Prediction) -> None:
        self._prediction = prediction

    def predict(self, image_bgr: NDArray[np.uint8]) -> Prediction:
        return self._prediction

    def close(self) -> None:
        """Nothing is held."""


def measure(bundle: str, data: EvaluationData, images: int, threads: int) -> dict[str, float]:
    """Return the medians; see the head of this file."""
    found: list[dict[str, float]] = []
    with open_bundle_predictor(bundle, data.vocabulary, threads=threads) as predictor:
        segmenter = predictor.segmenter
        assert isinstance(segmenter, Segmenter)
        for index in range(min(images, len(data.image_names))):
            image = data.image(index)
            result = segmenter.segment(image.image_bgr)
            prediction = predictor.predict(image.image_bgr)
            assert result.evidence is not None
            known = Known(prediction), Known(replace(prediction, evidence=None))
            segmenter.explain = False
            frame_s = cpu_s(partial(segmenter.segment, image.image_bgr))
            segmenter.explain = True
            copy_s = cpu_s(result.evidence.scores.copy)
            with_s, without_s = (
                cpu_s(partial(evaluate_image, one, data, image, boundary=False)) for one in known
            )
            top_s = time.process_time()
            asked = check(result)
            found.append(
                {
                    "top_us": 1e6 * (time.process_time() - top_s) / asked,
                    "frame_ms": 1e3 * frame_s,
                    "kept_ms": 1e3 * copy_s,
                    "kept_part": copy_s / frame_s,
                    "moves_ms": 1e3 * (with_s - without_s),
                    "moves_part": (with_s - without_s) / (frame_s + without_s),
                }
            )
    return {key: statistics.median(one[key] for one in found) for key in found[0]}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="label folder")
    parser.add_argument("--bundle", default="demo")
    parser.add_argument("--split", help="(default: val)")
    parser.add_argument("--images", type=typed(whole_number()), default=20)
    parser.add_argument("--threads", type=typed(whole_number()))
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args(argv)
    try:
        data = open_data(args.data, args.split)
        found = measure(args.bundle, data, args.images, usable_threads(args.threads))
    except DedosError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if args.json:
        print(json.dumps(found))
        return 0
    print(f"every label is explained, in {found['top_us']:.0f} us a pixel")
    print(f"kept scores: {found['kept_ms']:.2f} ms, {found['kept_part']:.2%} of a frame")
    print(
        f"words that would have to move: {found['moves_ms']:.2f} ms, {found['moves_part']:.2%} of an image"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
