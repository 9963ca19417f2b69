"""What each dense head makes of one trunk: mIoU on labelled pictures, beside its plain last layer.

Trunk and text tower of the embedded nano, or of a miniature CLIP trained here, are taken as a CLIP of
their own, without everything that was trained around them, under the heads that need no training. The
miniature's recipe tells patches what they show; by captions alone only the CLS token learns, as in
published CLIPs. All heads see the same pictures; intervals are of a paired bootstrap over pictures
(95 %). Pictures are scenes with seeds that no training used, or a label folder. `--steps` also leaves out
each step of sc-clip, by a number that makes it do nothing, and residual and feed-forward of the last
layer.

    python benchmarks/dense_heads.py --scene street --count 40
    python benchmarks/dense_heads.py --data camvid --split val --json
    python benchmarks/dense_heads.py --clip runs/captions --minutes 25 --steps --json
    python benchmarks/dense_heads.py --clip runs/recipe --regions --minutes 25 --steps
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
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
from dedos_deploy.head_numbers import HEADS, Head, sc_clip_head
from dedos_deploy.model import Dedos, load_checkpoint
from dedos_deploy.model.blocks import TransformerBlock, attend, map_from_tokens, resize_map
from dedos_deploy.model.heads import DenseClip, build_dense
from dedos_deploy.options import size_hw
from dedos_deploy.presets import DenseConfig, get_preset
from dedos_deploy.scenes import KINDS, class_names, render_image
from dedos_deploy.text import TEMPLATES, Tokenizer, write_tokenizer_json
from dedos_deploy.training.miniature.plan import MiniaturePlan
from dedos_deploy.training.miniature.pretraining import scenes as miniature_scenes
from dedos_deploy.training.pretraining.clip import ClipSettings, pretrain_clip
from dedos_deploy.training.pretraining.scenes import NOVEL_WORDS

HELD_OUT_SEED = 900_000
DRAWS = 2000
PLAIN = "last layer"
MOST_STEPS = 3000
"""Of a miniature CLIP, if the minutes do not end it."""
MINUTES = 25.0

Counts = NDArray[np.int64]
SizeHw = tuple[int, int]


def scenes(kind: str, count: int, size_hw: SizeHw) -> Iterator[LabelledImage]:
    height, width = size_hw
    for index in range(count):
        seed = HELD_OUT_SEED + index
        image, labels = render_image(kind, seed=seed, size_hw=(2 * height, 2 * width))
        yield LabelledImage(str(index), image, labels)


def miniature_clip(folder: Path, minutes: float, *, regions: bool) -> Dedos:
    """Return the CLIP in `folder`, trained there first if there is none.

    regions: as the miniature trains it; False: by the loss of pictures and their captions alone.
    """
    checkpoint = folder / "checkpoint.safetensors"
    if not checkpoint.exists():
        train, held_out = miniature_scenes(MiniaturePlan())
        settings = ClipSettings(MOST_STEPS, minutes, regions=regions, places=regions)
        pretrain_clip(get_preset("miniature"), train, settings, folder, held_out=held_out)
    return load_checkpoint(checkpoint)[0]


class Refined(nn.Module):
    """A block of the trunk and the refinement that it was trained with behind it."""

    def __init__(self, block: nn.Module, refine: nn.Module, q_hat: torch.Tensor) -> None:
        super().__init__()
        self.block, self.refine, self.q_hat = block, refine, q_hat

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.block(x)
        return torch.cat([x[:, :1], self.refine(x[:, 1:], self.q_hat)], dim=1)


class LastLayer(nn.Module):
    """The last block as it is, in place of a head; plain: without residual and feed-forward."""

    def __init__(self, *, plain: bool = False) -> None:
        super().__init__()
        self.plain = plain

    def forward(
        self, tokens: list[torch.Tensor], block: nn.Module, grid_hw: SizeHw
    ) -> torch.Tensor:
        if not self.plain:
            whole: torch.Tensor = block(tokens[-1])
            return whole[:, 1:]
        assert isinstance(block, TransformerBlock)
        q, k, v = block.qkv(block.ln_1(tokens[-1])).chunk(3, dim=-1)
        out: torch.Tensor = block.out(attend(q, k, v, block.heads))
        return out[:, 1:]


def ablations(layers: int) -> dict[str, Head]:
    """Return sc-clip without each of its steps in turn, by a number that makes the step do nothing."""
    whole = sc_clip_head(layers)
    last = layers - 1
    return {
        "sc-clip, no repair": replace(whole, quantile=1 - 1e-9),
        "sc-clip, no spreading": replace(whole, cut=0.999),
        "sc-clip, no CLS": replace(whole, cls_weight=0.0),
        "sc-clip, no earlier blocks": replace(whole, summed=(last, last)),
        "sc-clip, weights of itself": replace(whole, sharpness=1e3),
        "sc-clip, weights of all": replace(whole, sharpness=0.0),
    }


def dense_models(source: Dedos, size_hw: SizeHw, *, steps: bool) -> dict[str, DenseClip]:
    """Return the towers of `source` under every head and under its last layer, by name."""
    layers = source.config.clip.layers
    heads: dict[str, Head] = {kind: make(layers) for kind, make in HEADS.items()}
    if steps:
        heads |= ablations(layers)
    models = {name: dense_model(source, head, size_hw) for name, head in heads.items()}
    plain = {PLAIN: dense_model(source, heads["maskclip"], size_hw)}
    plain[PLAIN].head = LastLayer()
    if steps:
        name = f"{PLAIN}, attention only"
        plain[name] = dense_model(source, heads["maskclip"], size_hw)
        plain[name].head = LastLayer(plain=True)
    return plain | models


def dense_model(source: Dedos, head: Head, size_hw: SizeHw) -> DenseClip:
    """Return the towers of `source` under a head, the trunk refined as trained but for its last."""
    clip = source.config.clip
    model = build_dense(DenseConfig("dense-small", clip, size_hw, head))
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
    first = models[PLAIN]
    text, size_hw = embedded(first, words), first.config.size_hw
    grid_hw = size_hw[0] // first.config.clip.patch, size_hw[1] // first.config.clip.patch
    for item in data:
        small = cv2.resize(item.image_bgr, size_hw[::-1], interpolation=cv2.INTER_AREA)
        tokens = trunk_tokens(first, torch.from_numpy(small)[None])
        for kind, model in models.items():
            dense = first.trunk.ln_post(model.head(tokens, first.trunk.blocks[-1], grid_hw))  # type: ignore[arg-type]
            logits = model.word_logits(first.trunk.proj(dense), text, torch.ones(len(text)))
            scores = map_from_tokens(logits.transpose(1, 2), grid_hw).softmax(1)
            whole = resize_map(scores, item.labels.shape)
            confusion = Confusion(len(words))
            confusion.add(item.labels, whole[0].argmax(0).to(torch.uint8).numpy())
            found[kind].append(confusion.matrix)
    return {kind: np.stack(matrices) for kind, matrices in found.items()}


def trunk_tokens(model: DenseClip, image: torch.Tensor) -> list[torch.Tensor]:
    """Return the tokens after each block but the last, which all heads share."""
    tokens = [model.trunk.embed(image)]
    for block in model.trunk.blocks[:-1]:
        tokens.append(block(tokens[-1]))
    return tokens[1:]


def miou(matrices: Counts, chosen: Sequence[int] = ()) -> float:
    """Return mean IoU over the classes present, or over those of them that are chosen."""
    confusion = Confusion(matrices.shape[1])
    confusion.matrix = matrices.sum(0)
    if not chosen:
        return confusion.miou_present
    return float(np.nanmean(np.where(confusion.labelled > 0, confusion.iou, np.nan)[chosen]))


def interval(first: Counts, second: Counts) -> tuple[float, float, float]:
    """Return mIoU of `second` minus that of `first`, and its interval."""
    rng = np.random.default_rng(0)
    draws = rng.integers(0, len(first), (DRAWS, len(first)))
    moved = [miou(second[draw]) - miou(first[draw]) for draw in draws]
    low, high = np.quantile(moved, (0.025, 0.975))
    return miou(second) - miou(first), float(low), float(high)


def measure(args: argparse.Namespace) -> dict[str, Any]:
    if args.clip is None:
        source, trained = load_checkpoint(assets_path(EMBEDDED_WEIGHTS))[0], "the embedded nano"
        size_hw = args.size or source.config.size_hw
    else:
        source = miniature_clip(args.clip, args.minutes or MINUTES, regions=args.regions)
        trained, size_hw = args.clip.name, args.size or MiniaturePlan().size_hw
    if args.data is None:
        data: Iterable[LabelledImage] = scenes(args.scene, args.count, size_hw)
        words: Sequence[str] = class_names(args.scene)
        name = f"{args.count} scenes of kind {args.scene}"
    else:
        opened = LabelledFolder.open(args.data, args.split)
        data, words, name = opened, opened.classes, f"{Path(args.data).name} {args.split}"
    torch.set_num_threads(1)  # Towers of this size spend a second thread's time on waiting for it.
    with torch.inference_mode():
        found = counts(dense_models(source, size_hw, steps=args.steps), data, words)
    novel = [] if args.data else [i for i, word in enumerate(words) if word in NOVEL_WORDS]
    return {
        "clip": trained,
        "data": name,
        "pictures": len(found[PLAIN]),
        "classes": len(words),
        "miou": {kind: miou(matrices) for kind, matrices in found.items()},
        "miou_held_out": {kind: miou(found[kind], novel) for kind in found} if novel else None,
        "against_last_layer": {
            kind: interval(found[PLAIN], matrices)
            for kind, matrices in found.items()
            if kind != PLAIN
        },
    }


def table(values: dict[str, Any]) -> str:
    lines = [
        f"{values['clip']}, {values['data']}: {values['pictures']} pictures, "
        f"{values['classes']} classes"
    ]
    against, held_out = values["against_last_layer"], values["miou_held_out"]
    for kind, value in values["miou"].items():
        difference = "" if kind == PLAIN else "{:+.3f} [{:+.3f}, {:+.3f}]".format(*against[kind])
        novel = "" if held_out is None else f"held out {held_out[kind]:.3f}  "
        lines.append(f"  {kind:27} mIoU {value:.3f}  {novel}{difference}".rstrip())
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--clip", type=Path, metavar="FOLDER", help="a miniature CLIP, trained there if need be"
    )
    parser.add_argument("--minutes", type=float, help="of its training (25)")
    parser.add_argument("--regions", action="store_true", help="train its patches, too")
    parser.add_argument("--steps", action="store_true", help="also sc-clip without each step")
    parser.add_argument("--size", type=size_hw, metavar="HxW", help="network size")
    parser.add_argument("--scene", choices=KINDS, default="street")
    parser.add_argument("--count", type=int, default=40, help="scenes (40)")
    parser.add_argument("--data", metavar="FOLDER", help="a label folder in place of scenes")
    parser.add_argument("--split", default="val")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    args = parser.parse_args(argv)
    if args.clip is None and (args.regions or args.minutes is not None):
        parser.error(
            "--regions and --minutes are how a miniature CLIP is trained; add --clip FOLDER"
        )
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
