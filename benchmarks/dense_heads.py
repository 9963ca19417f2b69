"""What each dense head makes of one trunk: mIoU on labelled pictures, beside its plain last layer.

The embedded nano's trunk and text tower are taken as a CLIP of their own, without everything that was
trained around them, under the heads that need no training. All heads see the same pictures; intervals
are of a paired bootstrap over pictures (95 %). Pictures are scenes with seeds that no training used, or
a label folder.

    python benchmarks/dense_heads.py --scene street --count 40
    python benchmarks/dense_heads.py --data camvid --split val --json
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from dedos_deploy.assets import EMBEDDED_WEIGHTS, assets_path
from dedos_deploy.errors import DedosError
from dedos_deploy.evaluation.confusion import Confusion
from dedos_deploy.evaluation.folder import LabelledFolder, LabelledImage
from dedos_deploy.head_numbers import HEADS, HeadKind
from dedos_deploy.model import Dedos, load_checkpoint
from dedos_deploy.model.heads import DenseClip, build_dense
from dedos_deploy.presets import DenseConfig
from dedos_deploy.scenes import KINDS, class_names, render_image
from dedos_deploy.text import TEMPLATES, Tokenizer, write_tokenizer_json

HELD_OUT_SEED = 900_000
DRAWS = 2000
PLAIN = "last layer"
SIZE_HW = (240, 320)

Counts = NDArray[np.int64]


def scenes(kind: str, count: int) -> Iterator[LabelledImage]:
    for index in range(count):
        image, labels = render_image(kind, seed=HELD_OUT_SEED + index, size_hw=(480, 640))
        yield LabelledImage(str(index), image, labels)


class Refined(nn.Module):
    """A block of nano's trunk and the refinement that it was trained with behind it."""

    def __init__(self, block: nn.Module, refine: nn.Module, q_hat: torch.Tensor) -> None:
        super().__init__()
        self.block, self.refine, self.q_hat = block, refine, q_hat

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.block(x)
        return torch.cat([x[:, :1], self.refine(x[:, 1:], self.q_hat)], dim=1)


class LastLayer(nn.Module):
    """The last block as it is, in place of a head."""

    def forward(
        self, tokens: list[torch.Tensor], block: nn.Module, grid_hw: tuple[int, int]
    ) -> torch.Tensor:
        whole: torch.Tensor = block(tokens[-1])
        return whole[:, 1:]


def dense_nano(source: Dedos, kind: HeadKind | None) -> DenseClip:
    """Return nano's towers under a head, None for the last layer, its trunk refined as trained."""
    clip = source.config.clip
    model = build_dense(
        DenseConfig("dense-nano", clip, SIZE_HW, HEADS[kind or "naclip"](clip.layers))
    )
    if kind is None:
        model.head = LastLayer()  # type: ignore[assignment]
    model.trunk.load_state_dict(source.trunk.state_dict())
    model.text_tower.load_state_dict(source.text_tower.state_dict())
    q_hat = source.refinement.q_hat(source.proxy_queries())  # type: ignore[operator]
    for index in source.config.refine_blocks:
        if index < clip.layers - 1:
            block = model.trunk.blocks[index]
            model.trunk.blocks[index] = Refined(block, source.refinement, q_hat)
    return model.eval()


def embedded(model: DenseClip, words: Sequence[str]) -> torch.Tensor:
    """Return unit rows [K, D] under the one template that nano was trained with."""
    length = model.config.clip.text.context_length
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = Tokenizer(write_tokenizer_json(Path(folder) / "tokenizer.json", length), length)
        tokens = tokenizer.encode([TEMPLATES["single"][0].replace("{}", word) for word in words])
    rows = model.encode_text(torch.from_numpy(tokens))
    return torch.nn.functional.normalize(rows, dim=-1)


def counts(
    models: dict[str, DenseClip], data: Iterable[LabelledImage], words: Sequence[str]
) -> dict[str, Counts]:
    """Return the confusion of every picture, int64 [pictures, K, K + 1], by head."""
    found: dict[str, list[Counts]] = {kind: [] for kind in models}
    text = embedded(next(iter(models.values())), words)
    for item in data:
        small = cv2.resize(item.image_bgr, SIZE_HW[::-1], interpolation=cv2.INTER_AREA)
        height, width = item.labels.shape
        for kind, model in models.items():
            scores = model(torch.from_numpy(small)[None], text, torch.ones(len(text)))
            whole = torch.nn.functional.interpolate(scores, (height, width), mode="bilinear")
            confusion = Confusion(len(words))
            confusion.add(item.labels, whole[0].argmax(0).to(torch.uint8).numpy())
            found[kind].append(confusion.matrix)
    return {kind: np.stack(matrices) for kind, matrices in found.items()}


def miou(matrices: Counts) -> float:
    confusion = Confusion(matrices.shape[1])
    confusion.matrix = matrices.sum(0)
    return confusion.miou_present


def interval(first: Counts, second: Counts) -> tuple[float, float, float]:
    """Return mIoU of `second` minus that of `first`, and its interval."""
    rng = np.random.default_rng(0)
    draws = rng.integers(0, len(first), (DRAWS, len(first)))
    moved = [miou(second[draw]) - miou(first[draw]) for draw in draws]
    low, high = np.quantile(moved, (0.025, 0.975))
    return miou(second) - miou(first), float(low), float(high)


def measure(args: argparse.Namespace) -> dict[str, Any]:
    source, _ = load_checkpoint(assets_path(EMBEDDED_WEIGHTS))
    with torch.no_grad():
        models = {PLAIN: dense_nano(source, None)}
        models |= {kind: dense_nano(source, kind) for kind in HEADS}
    if args.data is None:
        data: Iterable[LabelledImage] = scenes(args.scene, args.count)
        words: Sequence[str] = class_names(args.scene)
        name = f"{args.count} scenes of kind {args.scene}"
    else:
        opened = LabelledFolder.open(args.data, args.split)
        data, words, name = opened, opened.classes, f"{Path(args.data).name} {args.split}"
    with torch.inference_mode():
        found = counts(models, data, words)
    return {
        "data": name,
        "pictures": len(found[PLAIN]),
        "classes": len(words),
        "miou": {kind: miou(matrices) for kind, matrices in found.items()},
        "against_last_layer": {
            kind: interval(found[PLAIN], matrices)
            for kind, matrices in found.items()
            if kind != PLAIN
        },
    }


def table(values: dict[str, Any]) -> str:
    lines = [f"{values['data']}: {values['pictures']} pictures, {values['classes']} classes"]
    against = values["against_last_layer"]
    for kind, value in values["miou"].items():
        difference = "" if kind == PLAIN else "{:+.3f} [{:+.3f}, {:+.3f}]".format(*against[kind])
        lines.append(f"  {kind:10} mIoU {value:.3f}  {difference}".rstrip())
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scene", choices=KINDS, default="street")
    parser.add_argument("--count", type=int, default=40, help="scenes (40)")
    parser.add_argument("--data", metavar="FOLDER", help="a label folder in place of scenes")
    parser.add_argument("--split", default="val")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    args = parser.parse_args(argv)
    try:
        values = measure(args)
    except DedosError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(table(values))
    if args.json:
        print(json.dumps(values))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
