"""The recipe of the embedded nano weights and demo bundle, from raw material to two files.

    python examples/embedded_nano.py --material DIR --work work --assets out --minutes 44

DIR holds, as published (see docs/nano.md for where each comes from):
  dhcn_hall/ tqb_hall/ lums_road/    label folders
  videos/ davis16/                   videos, and DAVIS 2016 frames as images/<sequence>/*.jpg
  cityscapes.onnx voc.onnx           the two DeepLab teachers as ONNX (image -> logits)

Needs the extras [train], [export] and [words].
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import cv2

from dedos_deploy.cli import export as export_cli
from dedos_deploy.cli import train as train_cli
from dedos_deploy.model import build_model, load_checkpoint, save_checkpoint
from dedos_deploy.presets import get_preset
from dedos_deploy.scenes import class_names, render_image
from dedos_deploy.training.pseudo_labels import (
    CITYSCAPES_WORDS,
    VOC_WORDS,
    LabelRules,
    OnnxTeacher,
    complete_folder,
    read_frames,
    write_pseudo_labels,
)
from dedos_deploy.training.words import DistilSettings, load_text_tower, run_text

SCENES = {"street": 1300, "hall": 900}
SHARES = {
    "scenes_street": 1, "scenes_hall": 1, "dhcn_hall": 2, "tqb_hall": 3, "lums_road_completed": 5,
    "udacity_highway": 5, "davis_street": 5, "intel_people": 3,
}  # fmt: skip
CREDITS = Path(__file__).with_name("embedded_nano_sources.json")
LICENCE = "Apache-2.0; trained on the sources named here, the CC BY 4.0 ones with credit"


def write_scenes(kind: str, folder: Path, count: int) -> None:
    """Write `count` training and 40 validation pictures of procedural scenes as a label folder."""
    for split, number, first_seed in (("train", count, 0), ("val", 40, 100_000)):
        for part in ("images", "labels"):
            (folder / part / split).mkdir(parents=True, exist_ok=True)
        for index in range(number):
            image, labels = render_image(kind, seed=first_seed + index, size_hw=(288, 384))
            cv2.imwrite(str(folder / "images" / split / f"{index:05}.jpg"), image)
            cv2.imwrite(str(folder / "labels" / split / f"{index:05}.png"), labels)
    (folder / "classes.txt").write_text("\n".join(class_names(kind)) + "\n", encoding="utf-8")


def write_pseudo_sets(material: Path, work: Path) -> None:
    """Label permissive frames with the two teachers."""
    streets = OnnxTeacher(material / "cityscapes.onnx", CITYSCAPES_WORDS)
    things = OnnxTeacher(material / "voc.onnx", VOC_WORDS)
    sure, person = LabelRules(confidence=0.8), LabelRules(words=("person",))
    videos = material / "videos"
    jobs = (
        (streets, "udacity_highway", videos / "udacity_solidWhiteRight.mp4", 4, sure),
        (streets, "udacity_highway", videos / "udacity_highway_test_video.mp4", 2, sure),
        (streets, "davis_street", material / "davis16/images/car-roundabout", 3, sure),
        (things, "intel_people", videos / "intel_one-by-one-person-detection.mp4", 24, person),
    )
    for teacher, name, path, step, rules in jobs:
        write_pseudo_labels(teacher, read_frames(path, step=step), work / name, rules)
    completed = work / "lums_road_completed"
    complete_folder(streets, material / "lums_road", completed, sure, split="train")


def write_start(work: Path, steps: int) -> Path:
    """Distil the text tower and write a checkpoint with it and an untrained image side."""
    tower = work / "text_tower.safetensors"
    settings = DistilSettings(steps=steps, batch=256)
    print(json.dumps(run_text(preset="nano", output=tower, settings=settings), indent=1))
    model = build_model(get_preset("nano"), seed=0)
    load_text_tower(tower, model.text_tower)
    save_checkpoint(work / "start.safetensors", model)
    return work / "start.safetensors"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--material", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--assets", type=Path, required=True, help="where the two files go")
    parser.add_argument("--minutes", type=float, default=44, help="training time (44)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--word-steps", type=int, default=520, help="text tower steps (520)")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    args.assets.mkdir(parents=True, exist_ok=True)
    start = write_start(args.work, args.word_steps)
    for kind, count in SCENES.items():
        write_scenes(kind, args.work / f"scenes_{kind}", count)
    write_pseudo_sets(args.material, args.work)
    data = []
    for name, share in SHARES.items():
        home = args.work if (args.work / name).is_dir() else args.material
        data.append(f"{home / name}={share}")
    run = args.work / "run"
    options = ["--preset", "nano", "--init", str(start), "--minutes", str(args.minutes)]
    options += ["--threads", str(args.threads), "--eval-minutes", "0", "--output", str(run)]
    if code := train_cli.main([*options, "--data", *data]):
        raise SystemExit(code)
    model, record = load_checkpoint(run / "checkpoint.safetensors")
    credits = json.loads(CREDITS.read_text(encoding="utf-8"))
    kept = {key: record[key] for key in ("step", "words", "template", "size_hw")}
    extra = {**kept, "sources": credits, "licence": LICENCE}
    weights = args.assets / "nano.safetensors"
    save_checkpoint(weights, model, extra=extra, compact=True)
    bundle = ["--storage", "half", "--output", str(args.assets / "demo.dedos"), "--overwrite"]
    raise SystemExit(export_cli.main(["--checkpoint", str(weights), *bundle]))


if __name__ == "__main__":
    main()
