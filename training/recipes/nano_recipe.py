"""What both nano recipes share: from raw material to a checkpoint, one finished command after another.

Each is a `dedos-train` command of its own (`text`, `pseudo-labels`, `trunk`, `diffusion`, and
training itself) and is skipped when its result is there, so that a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2

from dedos_deploy.cli.train import main as dedos_train
from dedos_deploy.scenes import class_names, render_image

NETS = {
    "cityscapes": "deeplab_mobilenet_edgetpu_slim_cityscapes_quant",
    "voc": "deeplabv3_mnv2_pascal_quant",
    "imagenet": "mobilenet_v2_1.0_224_quant",
}
"""Teachers: the name they get here, and the file in weights/ they are converted from."""

SCENES = {"scenes_street": ("street", 1300), "scenes_hall": ("hall", 900)}
SCENES_CREDIT = (
    "Procedural street and hall scenes, rendered by dedos_deploy.scenes (this project, Apache-2.0)"
)

_CORAL = "weights (Apache-2.0), github.com/google-coral/test_data"
_CITY = f"Teacher: DeepLab EdgeTPU-slim Cityscapes {_CORAL}"
_VOC = f"Teacher: DeepLabV3 MobileNetV2 PASCAL VOC {_CORAL}"
_INTEL = "(CC BY 4.0), github.com/intel-iot-devkit/sample-videos; pseudo labels"
_NOT_OUTDOORS = ("boat", "monitor", "plant", "table")
"""VOC words that its net sees in trees, clouds and cars."""


@dataclass(frozen=True)
class PseudoSet:
    """One set that the teachers label.

    sources: below the material folder; teachers: first one heard first; options: of
    `dedos-train pseudo-labels`; credits: where the pictures come from.
    """

    name: str
    sources: tuple[str, ...]
    teachers: tuple[str, ...]
    options: tuple[str, ...]
    credits: tuple[str, ...]


_DAVIS = (
    "blackswan",
    "bmx-trees",
    "car-roundabout",
    "cows",
    "dance-twirl",
    "dog",
    "drift-chicane",
    "drift-straight",
    "goat",
    "motocross-jump",
    "paragliding-launch",
    "parkour",
    "scooter-black",
    "soapbox",
)

PSEUDO_SETS = (
    PseudoSet(
        "ccp_street",
        ("ccp_people",),
        ("voc", "cityscapes"),
        ("--complete", "train", "--joined", "person", "--without", *_NOT_OUTDOORS),
        (
            "Clothing Co-Parsing photographs (repository Apache-2.0; Yang, Luo, Lin, CVPR 2014), "
            "github.com/bearpaw/clothing-co-parsing; clothes joined to person, the rest pseudo labels",
        ),
    ),
    PseudoSet(
        "davis_street",
        tuple(f"davis16/images/{name}" for name in _DAVIS),
        ("voc", "cityscapes"),
        ("--step", "4", "--without", *_NOT_OUTDOORS),
        (
            "DAVIS 2016 videos (BSD, Perazzi et al., CVPR 2016), github.com/davisvideochallenge/davis; "
            "pseudo labels",
        ),
    ),
    PseudoSet(
        "udacity_highway",
        ("videos/udacity_solidWhiteRight.mp4", "videos/udacity_highway_test_video.mp4"),
        ("cityscapes",),
        ("--step", "3"),
        (
            "Udacity CarND-LaneLines-P1 test video solidWhiteRight (MIT), "
            "github.com/udacity/CarND-LaneLines-P1; pseudo labels",
            "Udacity CarND-Vehicle-Detection test video (MIT), "
            "github.com/udacity/CarND-Vehicle-Detection; pseudo labels",
        ),
    ),
    PseudoSet(
        "intel_car",
        ("videos/intel_car-detection.mp4",),
        ("cityscapes",),
        ("--step", "12"),
        (f"Intel IoT sample video car-detection {_INTEL}",),
    ),
    PseudoSet(
        "intel_people",
        ("videos/intel_one-by-one-person-detection.mp4",),
        ("voc",),
        ("--step", "24", "--words", "person"),
        (f"Intel IoT sample video one-by-one-person-detection {_INTEL}",),
    ),
    PseudoSet(
        "lums_road_completed",
        ("lums_road",),
        ("cityscapes",),
        ("--complete", "train"),
        (
            "LUMS campus roads: Roboflow Universe senior-project-irtnh/lums-road-dataset (CC BY 4.0), "
            "github.com/faizanali710/LUMS-Road-Dataset; files repaired, background completed with "
            "pseudo labels",
        ),
    ),
)

CREDITS = {
    "Features of cityscapes.onnx": _CITY,
    "Features of voc.onnx": _VOC,
    "Detail branch: cityscapes.onnx": f"Detail branch: weights of the DeepLab EdgeTPU-slim Cityscapes {_CORAL}",
    "Features of imagenet.onnx": f"Teacher: MobileNetV2 ImageNet {_CORAL}",
    "dhcn_hall": "DHCN hall: Roboflow Universe tqbdataset/dhcn_dataset v1 (CC BY 4.0), "
    "github.com/buinghia3101/DHCN_dataset.v1i.png-mask-semantic; salt-and-pepper noise removed, "
    "classes renamed",
    "tqb_hall": "TQB hall: Roboflow Universe cttnhh-1-mnh-t/tqb-data-500 v3 (CC BY 4.0), "
    "github.com/buinghia3101/TQBdataset.Taquangbuudata.v3i.png-mask-semantic; crops merged, "
    "classes renamed",
}


RATES = (
    "--lr",
    1e-3,
    "--backbone-lr",
    3e-4,
    "--muon",
    0.003,
    "--drop-words",
    0.1,
    "--bank-drop",
    0.75,
)
"""A distilled trunk goes on more slowly than a head that starts from nothing."""

FINE = (
    "--size",
    "288x384",
    "--balance",
    0.4,
    "--lr",
    5e-4,
    "--backbone-lr",
    1.5e-4,
    "--muon",
    0.0015,
    "--warmup",
    20,
    "--ema",
    0.99,
)
"""How a trained model goes on: larger pictures, rare words weighed more, smaller steps."""


@dataclass(frozen=True)
class Recipe:
    """Where things are.

    material: raw sets, as published; work: what is made of them; tag: ends the names of all that
    learned from a choice of sets, so that another choice does not take it for its own.
    """

    material: Path
    work: Path
    threads: int
    tag: str = ""

    def place(self, name: str) -> Path:
        """Return the folder of a set, made here or given."""
        made = self.work / name
        return made if made.is_dir() else self.material / name

    def data(self, shares: dict[str, float]) -> list[str]:
        """Return sets as --data takes them."""
        return [f"{self.place(name)}={share:g}" for name, share in shares.items()]

    def net(self, name: str) -> Path:
        return self.work / "nets" / f"{name}.onnx"

    def run(self, *options: object) -> None:
        """Run one `dedos-train` command; ends the recipe when it fails."""
        words = [str(option) for option in options]
        print("dedos-train", *words, file=sys.stderr)
        if code := dedos_train(words):
            raise SystemExit(code)

    def make_nets(self) -> None:
        """Convert the published .tflite teachers to ONNX."""
        weights = self.material / "weights"
        for name, file in NETS.items():
            if not self.net(name).is_file():
                self.net(name).parent.mkdir(parents=True, exist_ok=True)
                script = str(weights / "tflite_to_onnx.py")
                source = str(weights / f"{file}.tflite")
                subprocess.run([sys.executable, script, source, str(self.net(name))], check=True)

    def make_scenes(self) -> None:
        """Write procedural scenes as label folders."""
        for name, (kind, count) in SCENES.items():
            if not (self.work / name / "credits.txt").is_file():
                write_scenes(kind, self.work / name, count)

    def make_pseudo_labels(self) -> None:
        """Let the teachers label what has no labels."""
        for job in PSEUDO_SETS:
            folder = self.work / job.name
            if (folder / "overlays.png").is_file():
                continue
            options: list[object] = [*(self.material / source for source in job.sources)]
            for teacher in job.teachers:
                options += ["--teacher", f"{teacher}={self.net(teacher)}"]
            nets = [_VOC if teacher == "voc" else _CITY for teacher in job.teachers]
            for line in (*job.credits, *nets):
                options += ["--credit", line]
            options += ["--output", folder, "--threads", self.threads]
            self.run("pseudo-labels", *options, *job.options)

    def make_text_tower(self, steps: int) -> None:
        """Distil the sentence encoder."""
        if not (self.work / "text_tower.safetensors").is_file():
            state = self.work / "text_tower.state.safetensors"
            resume = ["--resume"] if state.is_file() else []
            self.run(
                "text",
                "--output",
                self.work / "text_tower.safetensors",
                "--steps",
                steps,
                "--batch",
                256,
                "--threads",
                self.threads,
                *resume,
            )

    def make_trunk(self, shares: dict[str, float], minutes: float) -> Path:
        """Distil the teachers' features; returns the checkpoint to start from."""
        folder = self.work / f"trunk{self.tag}"
        if not (folder / "report.json").is_file():
            resume = ["--resume"] if (folder / "state.safetensors").is_file() else []
            teachers = [part for name in NETS for part in ("--teacher", self.net(name))]
            self.run(
                "trunk",
                "--data",
                *self.data(shares),
                *teachers,
                "--output",
                folder,
                "--text",
                self.work / "text_tower.safetensors",
                "--minutes",
                minutes,
                "--detail",
                self.net("cityscapes"),
                "--threads",
                self.threads,
                *resume,
            )
        return folder / "start.safetensors"

    def make_diffusion(self, shares: dict[str, float], start: Path, minutes: float) -> Path:
        """Pretrain the nano latent diffusion on the same pictures."""
        folder = self.work / f"diffusion{self.tag}"
        if not (folder / "report.json").is_file():
            parts = {name: min(share, 1.0) for name, share in shares.items()}
            resume = ["--resume"] if (folder / "vae_state.safetensors").is_file() else []
            self.run(
                "diffusion",
                "--data",
                *self.data(parts),
                "--output",
                folder,
                "--text",
                start,
                "--minutes",
                minutes,
                "--threads",
                self.threads,
                *resume,
            )
        return folder

    def train(
        self, name: str, shares: dict[str, float], options: Sequence[object], *, diffusion: Path
    ) -> Path:
        """Train with the full method; returns the run's folder."""
        folder = self.work / f"{name}{self.tag}"
        if not (folder / "evaluation.json").is_file():
            resume = ["--resume"] if (folder / "state.safetensors").is_file() else []
            self.run(
                "--preset",
                "nano",
                "--data",
                *self.data(shares),
                "--output",
                folder,
                "--diffusion",
                diffusion,
                "--component",
                "V",
                "--diffusion-cache",
                self.work / f"diffusion_cache{self.tag}",
                "--threads",
                self.threads,
                "--eval-minutes",
                0,
                *RATES,
                *options,
                *resume,
            )
        return folder


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
    (folder / "credits.txt").write_text(SCENES_CREDIT + "\n", encoding="utf-8")


def credited(lines: Sequence[str]) -> list[str]:
    """Return credits with those of folders and nets that carry none of their own put in."""
    return list(dict.fromkeys(CREDITS.get(line, line) for line in lines))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what both recipes take."""
    parser.add_argument("--material", type=Path, required=True, help="folder of the raw sets")
    parser.add_argument("--work", type=Path, required=True, help="folder for all that is made")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (2)")
    parser.add_argument("--word-steps", type=int, default=520, help="text tower steps (520)")
    parser.add_argument("--trunk-minutes", type=float, default=30, help="trunk distillation (30)")
    parser.add_argument("--diffusion-minutes", type=float, default=12, help="diffusion (12)")
