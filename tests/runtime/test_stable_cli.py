"""dedos-run --stable: fewer changes from frame to frame, of every source alone, and what it refuses."""

from __future__ import annotations

import itertools
from pathlib import Path

import cv2
import numpy as np
import pytest

from dedos_deploy.cli.run import main

FRAMES = 6


@pytest.fixture
def flickering(tmp_path: Path) -> Path:
    """Return a folder of pictures in which red leads by less than the noise, beside green."""
    folder = tmp_path / "frames"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(FRAMES):
        frame = np.full((64, 96, 3), (0, 150, 156), np.float64)
        # Blocks of the size of a score's cell, so that the noise is not averaged away.
        frame += np.kron(rng.normal(0, 4, (8, 12, 3)), np.ones((8, 8, 1)))
        picture = np.clip(frame, 0, 255).astype(np.uint8)
        assert cv2.imwrite(str(folder / f"{number}.png"), picture)
    return folder


def changes(masks: Path) -> float:
    """Return which part of the pixels has another label than in the frame before, on average."""
    maps = [cv2.imread(str(masks / f"{n}.png"), cv2.IMREAD_UNCHANGED) for n in range(FRAMES)]
    return float(np.mean([(a != b).mean() for a, b in itertools.pairwise(maps)]))


def run(bundle: Path, *arguments: object) -> int:
    options = ["--classes", "red,green", "--threads", "1", "--quiet", "--bundle", bundle]
    return main([*map(str, arguments), *map(str, options)])


def test_labels_change_less_from_frame_to_frame(
    bundle_folder: Path, flickering: Path, tmp_path: Path
) -> None:
    plain, stable = tmp_path / "plain", tmp_path / "stable"
    assert run(bundle_folder, "--source", flickering, "--output", f"masks:{plain}") == 0
    output = ("--output", f"masks:{stable}", "--stable")
    assert run(bundle_folder, "--source", flickering, *output) == 0
    assert changes(plain) > 0.1
    assert changes(stable) < 0.5 * changes(plain)


def test_cameras_at_once_are_as_one_alone(
    bundle_folder: Path, flickering: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for number in range(FRAMES):
        picture = cv2.imread(str(flickering / f"{FRAMES - 1 - number}.png"))
        assert cv2.imwrite(str(other / f"{number}.png"), picture)
    output = ("--output", f"masks:{tmp_path}/{{camera}}-masks", "--stable")
    both = ("--source", f"a={flickering}", "--source", f"b={other}")
    assert run(bundle_folder, *both, *output) == 0
    alone = ("--output", f"masks:{tmp_path / 'alone'}", "--stable")
    assert run(bundle_folder, "--source", flickering, *alone) == 0
    for number in range(FRAMES):
        maps = [
            cv2.imread(str(tmp_path / folder / f"{number}.png"), cv2.IMREAD_UNCHANGED)
            for folder in ("a-masks", "alone")
        ]
        np.testing.assert_array_equal(*maps)


def test_a_single_picture_is_refused(
    bundle_folder: Path, flickering: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.png"
    picture = flickering / "0.png"
    assert run(bundle_folder, "--source", picture, "--output", output, "--stable") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "0.png' is a single picture; leave --stable out, or name a video" in line
    assert not output.exists()
    assert run(bundle_folder, "--source", picture, "--output", output, "--no-stable") == 0
