"""What is done with a bundle once it is exported, and pictures to calibrate on."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import pytest

from dedos_deploy.cli.eval import main as evaluate
from dedos_deploy.cli.run import main as run
from dedos_deploy.scenes import KINDS, class_names, render_image


def check_use(bundle: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Let dedos-run label two frames and dedos-eval score one picture, in `folder`."""
    source = "scene:street?frames=2&size=48x64"
    line = ["--bundle", str(bundle), "--source", source, "--classes", "road,zebra", "--output"]
    assert run([*line, str(folder / "frames.jsonl")]) == 0
    assert len((folder / "frames.jsonl").read_text().splitlines()) == 2
    for kind in ("images", "labels"):
        (folder / "street" / kind / "val").mkdir(parents=True)
    image, labels = render_image("street", seed=1, size_hw=(48, 64))
    cv2.imwrite(str(folder / "street" / "images" / "val" / "0.png"), image)
    cv2.imwrite(str(folder / "street" / "labels" / "val" / "0.png"), labels)
    (folder / "street" / "classes.txt").write_text("\n".join(class_names("street")) + "\n")
    capsys.readouterr()
    line = ["--bundle", str(bundle), "--data", str(folder / "street"), "--split", "val"]
    assert evaluate([*line, "--json"]) == 0
    assert 0 <= json.loads(capsys.readouterr().out.splitlines()[-1])["miou_present"] <= 1


def int8_line(drive: Path) -> list[str]:
    """Write 24 pictures into `drive` and return the options of an INT8 export that calibrates on them."""
    drive.mkdir()
    for index in range(24):
        image, _ = render_image(KINDS[index % len(KINDS)], seed=index, size_hw=(48, 64))
        cv2.imwrite(str(drive / f"{index:02d}.png"), image)
    return ["--precision", "int8", "--calib", str(drive), "--calib-frames", "16", "--force-int8"]
