"""What each dense head makes of one trunk: mIoU on labelled pictures, beside its plain last layer.

Trunk and text tower of the embedded nano, or of another checkpoint, are taken as a CLIP of their own,
without everything that was trained around them, under the heads that need no training. Nano's own last
layer was trained to tell every patch's word; a published CLIP's never was, for only its CLS token was
compared with captions. `--captions` makes the same of it here: a last layer and a projection that
know nothing are put onto the trunk and trained by the CLS token and captions of scenes alone.

All heads see the same pictures; intervals are of a paired bootstrap over pictures (95 %). Pictures are
scenes with seeds that no training used, or a label folder. `--steps` also leaves out each step of sc-clip,
by a number that makes it do nothing, and residual and feed-forward of the last layer.

    python benchmarks/dense_heads.py --scene street --count 40
    python benchmarks/dense_heads.py --captions runs/captions --steps --json
    python benchmarks/dense_heads.py --captions runs/captions --data camvid --size 192x256 --json
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from dense_models import PLAIN, SizeHw, dense_models, embedded, trunk_tokens
from numpy.typing import NDArray
from torch import nn

from dedos_deploy.assets import EMBEDDED_WEIGHTS, assets_path
from dedos_deploy.cli._options import typed
from dedos_deploy.errors import BadInputError, DedosError
from dedos_deploy.evaluation.confusion import Confusion
from dedos_deploy.evaluation.folder import LabelledFolder, LabelledImage
from dedos_deploy.model import load_checkpoint
from dedos_deploy.model.blocks import TransformerBlock, map_from_tokens, resize_map
from dedos_deploy.model.heads import DenseClip
from dedos_deploy.options import size_hw, whole_number
from dedos_deploy.scenes import KINDS, class_names, render_image
from dedos_deploy.text import TEMPLATES
from dedos_deploy.training.pretraining.clip_losses import PairLosses
from dedos_deploy.training.pretraining.scenes import NOVEL_WORDS, render_scenes

HELD_OUT_SEED = 900_000
DRAWS = 2000
CAPTION_SEED = 31
CAPTION_RATE = 1e-3

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Captions:
    """How long a last layer learns from captions, and from how many."""

    scenes: int
    steps: int
    batch: int

    @property
    def chance(self) -> float:
        """The loss of guessing."""
        return math.log(self.batch)


def scenes(kind: str, count: int, size_hw: SizeHw) -> Iterator[LabelledImage]:
    height, width = size_hw
    for index in range(count):
        seed = HELD_OUT_SEED + index
        image, labels = render_image(kind, seed=seed, size_hw=(2 * height, 2 * width))
        yield LabelledImage(str(index), image, labels)


def new_last_layer(models: dict[str, DenseClip]) -> nn.ModuleList:
    """Return one last layer, norm and projection that know nothing, put onto the trunks of `models`."""
    torch.manual_seed(0)
    trunk = models[PLAIN].trunk
    top = nn.ModuleList([trunk.blocks[-1], trunk.ln_post, trunk.proj])
    for module in top.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            module.reset_parameters()
    for model in models.values():
        model.trunk.blocks[-1], model.trunk.ln_post, model.trunk.proj = top
    return top.requires_grad_(True)


def train_by_captions(model: DenseClip, top: nn.ModuleList, captions: Captions) -> float:
    """Train the last layer `top` of `model` by captions; return its last loss.

    The trunk below and the text tower stay as they are. The layer, the norm behind it and the
    projection learn to tell, by the CLS token, which caption of a batch belongs to which scene.
    """
    losses = PairLosses()
    block, norm, projection = top
    learned = [losses.caption_scale, *top.parameters()]
    optimizer = torch.optim.AdamW(learned, CAPTION_RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, CAPTION_RATE, captions.steps, pct_start=0.1
    )
    below, texts = caption_data(model, captions.scenes)
    rng = np.random.default_rng(0)
    recent = captions.chance
    for step in range(captions.steps):
        chosen = rng.choice(len(below), captions.batch, replace=False)
        rows = texts[chosen, rng.integers(0, texts.shape[1], len(chosen))]
        seen = projection(norm(cls_token(block, below[chosen].float())))
        same = (rows[:, None] == rows[None]).all(-1)
        loss = losses.captions(nn.functional.normalize(seen, dim=-1), rows, same)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        recent = 0.98 * recent + 0.02 * loss.item()
        if step % 100 == 0:
            print(f"captions: step {step}, loss {recent:.3f}", file=sys.stderr, flush=True)
    return recent


def cls_token(block: TransformerBlock, x: torch.Tensor) -> torch.Tensor:
    """Return `block(x)[:, 0]`, [B, C] of [B, N, C], without the other tokens' results.

    For one query, keys and values need not be made: q·(W_k x + b_k) is (W_kᵀ q)·x but for a constant that
    softmax removes, and the weights sum to one: Σ a (W_v x + b_v) = W_v Σ a x + b_v.
    """
    heads, width = block.heads, x.shape[-1]
    seen = block.ln_1(x)
    q_part, k_part, v_part = block.qkv.weight.chunk(3)
    q_bias, _, v_bias = block.qkv.bias.chunk(3)
    q = nn.functional.linear(seen[:, 0], q_part, q_bias).unflatten(-1, (heads, -1))
    asked = torch.einsum("bhd,hdc->bhc", q, k_part.unflatten(0, (heads, -1)))
    weights = (asked @ seen.transpose(1, 2) * (width // heads) ** -0.5).softmax(-1)
    pooled = torch.einsum("bhc,hdc->bhd", weights @ seen, v_part.unflatten(0, (heads, -1)))
    first = x[:, 0] + block.out(pooled.flatten(1) + v_bias)
    mixed: torch.Tensor = first + block.proj(block.act(block.fc(block.ln_2(first))))
    return mixed


def kept_by_captions(models: dict[str, DenseClip], folder: Path, captions: Captions) -> str:
    """Give `models` the last layer in `folder`, trained there first; return how far it came."""
    top, file = new_last_layer(models), folder / "last_layer.pt"
    numbers = torch.tensor([captions.scenes, captions.steps, captions.batch])
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        loss = train_by_captions(models[PLAIN], top, captions)
        torch.save(
            {"loss": torch.tensor(loss), "captions": numbers, **top.state_dict()},
            file,
        )
    kept = torch.load(file, weights_only=True)
    if not torch.equal(kept.pop("captions"), numbers):
        raise BadInputError(f"{str(file)!r} was trained with other numbers; give another folder")
    loss = kept.pop("loss").item()
    top.load_state_dict(kept)
    return f"loss {loss:.2f}, by chance {captions.chance:.2f}"


def caption_data(model: DenseClip, count: int, draws: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Return tokens float16 [N, 1 + P, C] below the last layer and captions float32 [N, draws, D]."""
    scenes = render_scenes(count, size_hw=model.config.size_hw, seed=CAPTION_SEED)
    below, texts = [], []
    with torch.inference_mode():
        for index in range(0, len(scenes), 20):
            images = torch.from_numpy(scenes.images[index : index + 20])
            below.append(trunk_tokens(model, images)[-1].half())
            captions = [
                scenes.caption(row, draw=draw).text
                for row in range(index, index + len(images))
                for draw in range(draws)
            ]
            texts.append(embedded(model, captions).reshape(len(images), draws, -1))
    return torch.cat(below).clone(), torch.cat(texts).clone()


def counts(
    models: dict[str, DenseClip], data: Iterable[LabelledImage], words: Sequence[str]
) -> dict[str, Counts]:
    """Return the confusion of every picture, int64 [pictures, K, K + 1], by head."""
    found: dict[str, list[Counts]] = {kind: [] for kind in models}
    first = models[PLAIN]
    # Under the one template that nano was trained with.
    text = embedded(first, [TEMPLATES["single"][0].replace("{}", word) for word in words])
    size_hw = first.config.size_hw
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
    source = load_checkpoint(args.clip or assets_path(EMBEDDED_WEIGHTS))[0]
    trained = "the embedded nano" if args.clip is None else args.clip.name
    size_hw = args.size or source.config.size_hw
    if args.data is None:
        data: Iterable[LabelledImage] = scenes(args.scene, args.count, size_hw)
        words: Sequence[str] = class_names(args.scene)
        name = f"{args.count} scenes of kind {args.scene}"
    else:
        opened = LabelledFolder.open(args.data, args.split)
        data, words, name = opened, opened.classes, f"{Path(args.data).name} {args.split}"
    torch.set_num_threads(1)  # Towers of this size spend a second thread's time on waiting for it.
    models = dense_models(source, size_hw, steps=args.steps)
    if args.captions is not None:
        learned = Captions(args.caption_scenes, args.caption_steps, args.caption_batch)
        came = kept_by_captions(models, args.captions, learned)
        trained += f", last layer by captions alone ({came})"
    with torch.inference_mode():
        found = counts(models, data, words)
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
    parser.add_argument("--clip", type=Path, metavar="CHECKPOINT", help="in place of the nano's")
    parser.add_argument(
        "--captions", type=Path, metavar="FOLDER", help="a last layer by captions alone, kept there"
    )
    for name, least, usual in (("scenes", 1, 1200), ("steps", 1, 1500), ("batch", 2, 48)):
        number, said = typed(whole_number(least)), f"of --captions ({usual})"
        parser.add_argument(f"--caption-{name}", type=number, default=usual, help=said)
    parser.add_argument("--steps", action="store_true", help="also sc-clip without each step")
    parser.add_argument("--size", type=typed(size_hw), metavar="HxW", help="network size")
    parser.add_argument("--scene", choices=KINDS, default="street")
    parser.add_argument("--count", type=typed(whole_number()), default=40, help="scenes (40)")
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
