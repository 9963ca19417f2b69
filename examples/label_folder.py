"""Label a folder of pictures by words: a mask beside each, and a line of numbers per picture.

python examples/label_folder.py photos "road,car|truck,person" labels
"""

from __future__ import annotations

import sys

from dedos_deploy import Segmenter
from dedos_deploy.runtime import open_sink, open_source, run


def main(pictures: str, words: str, labels: str) -> None:
    with (
        Segmenter.load("demo", classes=words, background="negatives") as segmenter,
        open_source(pictures) as source,
        open_sink(f"masks:{labels}") as masks,
        open_sink(f"{labels}.jsonl") as numbers,
    ):
        statistics = run(source, segmenter, [masks, numbers])
    print(f"{statistics.frames} pictures, {statistics.fps:.1f} a second, in {labels}")
    for word, part in statistics.coverage.items():
        print(f"{part:6.1%} {word}")


if __name__ == "__main__":
    main(*sys.argv[1:])
