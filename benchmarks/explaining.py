"""What it costs to say why pixels have their labels, beside labelling them, on labelled images.

First every label of a grid of pixels is compared with the first candidate of `Segmentation.top` there.
Then, image by image, the first of a pair changing each time: the CPU time of a frame whose result keeps
its scores beside one that does not, and of the record of an image with what words would have to move
beside one without. Medians over images of the ratios are reported, and the time of one `top`.

    python benchmarks/explaining.py camvid --images 20 --json
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence

from dedos_deploy.errors import BadInputError, DedosError
from dedos_deploy.evaluation.data import EvaluationData, open_data
from dedos_deploy.evaluation.evaluate import evaluate_image
from dedos_deploy.evaluation.predictors import open_bundle_predictor
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


class Pairs:
    """CPU seconds of the same work with and without something, side by side."""

    def __init__(self, segmenter: Segmenter) -> None:
        self._segmenter = segmenter
        self._found: list[tuple[float, float]] = []

    def take(self, work: Callable[[], object]) -> None:
        """Do it with the segmenter's `explain` on and off."""
        order = (True, False) if len(self._found) % 2 else (False, True)
        seconds = {}
        for explain in order:
            self._segmenter.explain = explain
            seconds[explain] = cpu_s(work)
        self._found.append((seconds[True], seconds[False]))

    @property
    def ratio(self) -> float:
        return statistics.median(on / off for on, off in self._found)

    @property
    def extra_ms(self) -> float:
        return 1e3 * statistics.median(on - off for on, off in self._found)


def measure(bundle: str, data: EvaluationData, images: int, threads: int) -> dict[str, float]:
    """Return the ratios; see the head of this file."""
    with open_bundle_predictor(bundle, data.vocabulary, threads=threads) as predictor:
        segmenter = predictor.segmenter
        assert isinstance(segmenter, Segmenter)
        frames, records, asked, top_s = Pairs(segmenter), Pairs(segmenter), 0, 0.0
        for index in range(min(images, len(data.image_names))):
            image = data.image(index)
            segmenter.explain = True
            result = segmenter.segment(image.image_bgr)
            before = time.process_time()
            asked += check(result)
            top_s += time.process_time() - before
            frames.take(lambda image=image: segmenter.segment(image.image_bgr))  # type: ignore[misc]
            records.take(
                lambda image=image: evaluate_image(predictor, data, image, boundary=False)  # type: ignore[misc]
            )
    return {
        "pixels": asked,
        "top_us": 1e6 * top_s / asked,
        "frame_ratio": frames.ratio,
        "frame_extra_ms": frames.extra_ms,
        "record_ratio": records.ratio,
        "record_extra_ms": records.extra_ms,
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="label folder")
    parser.add_argument("--bundle", default="demo")
    parser.add_argument("--split", help="(default: val)")
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--threads", type=int)
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
    print(f"{found['pixels']} pixels explained as they are labelled, {found['top_us']:.0f} us each")
    print(f"a frame that keeps its scores: {found['frame_ratio']:.3f} of one that does not")
    print(
        f"a record with words that would have to move: {found['record_ratio']:.3f} of one without"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
