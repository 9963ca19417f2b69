"""The parity gate on the device sees faults of single slot buckets, of real, smooth and noisy pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from fake_tensorrt import reference_scores
from numpy.typing import NDArray
from tiny_bundle import BASE_WORDS, embeddings, write_tiny_bundle

from dedos_deploy.bundle import MOST_PARITY_FRAMES, PARITY_FOLDER, Bundle
from dedos_deploy.errors import BadBundleError
from dedos_deploy.runtime.gpu.device_check import DeviceCheck, check_on_device
from dedos_deploy.spec import SLOT_BUCKETS, GraphSpec, bucket_for

Inputs = Mapping[str, NDArray[Any]]
Fault = Callable[[Inputs, NDArray[Any]], NDArray[Any]]

ROWS = embeddings()
SPEC = GraphSpec(32, 48, ROWS.shape[1])


def _right(inputs: Inputs) -> dict[str, NDArray[Any]]:
    return {"scores": reference_scores(**inputs, dtype=np.float32)}


class Compared:
    """Engines with a fault against one without, and what they were run on."""

    def __init__(self) -> None:
        self.runs: list[Inputs] = []

    def __call__(
        self, fault: Fault, *, batch: int = 1, words: int = 10, **more: Any
    ) -> DeviceCheck:
        def infer(inputs: Inputs) -> dict[str, NDArray[Any]]:
            self.runs.append(inputs)
            return {"scores": fault(inputs, _right(inputs)["scores"].copy())}

        spec = GraphSpec(SPEC.height, SPEC.width, SPEC.text_width, batch)
        engine: Any = SimpleNamespace(spec=spec, infer=infer)
        rows = np.resize(ROWS, (words, SPEC.text_width))
        return check_on_device(engine, _right, rows, precision="fp16", **more)


@pytest.fixture
def compared() -> Compared:
    return Compared()


def _none(inputs: Inputs, scores: NDArray[Any]) -> NDArray[Any]:
    return scores


def _only(when: Callable[[Inputs], Any]) -> Fault:
    """Swap labels where `when` says so."""
    return lambda inputs, scores: scores[:, ::-1] if when(inputs) else scores


def _roughness(inputs: Inputs) -> float:
    """Mean difference of neighbouring pixels: about 85 for noise, 5 for a gradient of 48 columns."""
    return float(np.abs(np.diff(inputs["image"].astype(int), axis=2)).mean())


@pytest.mark.parametrize("words", [1, 10, 70, 171, 300])
def test_every_slot_bucket_is_run(compared: Compared, words: int) -> None:
    assert compared(_none, words=words).passed
    slots = {len(inputs["text"]) for inputs in compared.runs}
    assert {bucket_for(count) for count in slots} == set(SLOT_BUCKETS)
    # One that is filled to the last slot, and the vocabulary itself.
    assert min(words, 256) in slots and slots & {16, 64, 256}
    assert all(inputs["valid"].all() for inputs in compared.runs)


@pytest.mark.parametrize("bucket", SLOT_BUCKETS)
def test_a_bucket_that_computes_something_else_is_found(compared: Compared, bucket: int) -> None:
    verdict = compared(_only(lambda inputs: bucket_for(len(inputs["text"])) == bucket))
    assert not verdict.passed and bucket_for(int(verdict.worst.split(",")[0][2:])) == bucket


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("noise", lambda inputs: _roughness(inputs) > 60),
        ("a gradient", lambda inputs: np.array_equal(inputs["image"][0, 0, 0], [0, 0, 255])),
    ],
)
def test_a_fault_of_made_pictures_alone_is_found(compared: Compared, name: str, fault: Any) -> None:
    frames = [np.full((40, 60, 3), 90, np.uint8)]
    verdict = compared(_only(fault), frames=frames)
    assert not verdict.passed and name in verdict.worst


def test_a_number_that_is_none_is_found_wherever_it_comes(compared: Compared) -> None:
    def broken(inputs: Inputs, scores: NDArray[Any]) -> NDArray[Any]:
        if len(inputs["text"]) == 64 and _roughness(inputs) > 60:
            scores[0, 63, 1, 1] = np.nan
        return scores

    verdict = compared(broken)
    assert not verdict.finite and str(verdict).startswith("it gives NaN") and "K=64" in str(verdict)


def test_near_ties_on_noise_are_no_fault_and_on_frames_are(compared: Compared) -> None:
    """FP16 decides some of them otherwise."""
    rng = np.random.default_rng(0)

    def rounded(inputs: Inputs, scores: NDArray[Any]) -> NDArray[Any]:
        return scores + rng.uniform(-0.008, 0.008, scores.shape).astype(np.float32)

    coloured = np.zeros((32, 48, 3), np.uint8)
    coloured[..., 0] = 255
    assert compared(rounded, words=3, frames=[coloured]).passed
    grey = np.full((32, 48, 3), 128, np.uint8)
    verdict = compared(rounded, words=3, frames=[grey])
    assert not verdict.passed and "frame 0" in verdict.worst


def test_images_after_the_first_of_a_batch(compared: Compared) -> None:
    def mixed(inputs: Inputs, scores: NDArray[Any]) -> NDArray[Any]:
        scores[1:] = scores[1:, ::-1]
        return scores

    assert compared(_none, batch=3).passed
    assert {len(inputs["image"]) for inputs in compared.runs} == {3}
    verdict = compared(mixed, batch=3)
    assert not verdict.passed and "image 1 of the batch" in verdict.worst


# The bundle's own frames


def _jpeg(colour_bgr: tuple[int, int, int], size_hw: tuple[int, int] = (40, 60)) -> bytes:
    _, encoded = cv2.imencode(".jpg", np.full((*size_hw, 3), colour_bgr, np.uint8))
    return bytes(encoded)


def test_frames_of_the_bundle_take_the_place_of_scenes(compared: Compared, tmp_path: Path) -> None:
    files = {f"{PARITY_FOLDER}/{n}.jpg": _jpeg((250, 0, 0)) for n in range(1, 6)}
    path = write_tiny_bundle(tmp_path / "b", target="trt", files=files)
    with Bundle.open(path) as bundle:
        frames = bundle.parity_frames()
        assert [frame.shape for frame in frames] == [(40, 60, 3)] * MOST_PARITY_FRAMES
        assert np.abs(frames[0].astype(int) - (250, 0, 0)).max() < 5

        def on_blue(inputs: Inputs) -> bool:
            return bool((inputs["image"][0].mean(axis=(0, 1)).round() > (240, -1, -1)).all())

        assert compared(_only(on_blue)).passed
        verdict = compared(_only(on_blue), frames=frames)
    assert (
        not verdict.passed
        and verdict.worst == f"K={len(BASE_WORDS)}, frame 0, image 0 of the batch"
    )
    with Bundle.open(write_tiny_bundle(tmp_path / "old", target="trt")) as earlier:
        assert earlier.parity_frames() == []


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"no picture", "is no picture, but parity frames are pictures of up to 640x640"),
        (_jpeg((0, 0, 0), (700, 10)), "is 700x10, but parity frames"),
    ],
)
def test_what_is_no_parity_frame_is_named(content: bytes, words: str, tmp_path: Path) -> None:
    files = {f"{PARITY_FOLDER}/1.jpg": content}
    with Bundle.open(write_tiny_bundle(tmp_path / "b", files=files)) as bundle:
        with pytest.raises(BadBundleError, match=f"'parity/1.jpg' {words}"):
            bundle.parity_frames()


@pytest.mark.parametrize(
    ("kind", "words"), [(".jpg", "a picture of 2000000 pixels"), (".webp", "no picture")]
)
def test_a_huge_parity_frame_is_refused_before_it_is_decoded(
    kind: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, encoded = cv2.imencode(kind, np.zeros((2000, 1000, 3), np.uint8))
    files = {f"{PARITY_FOLDER}/1.jpg": bytes(encoded)}

    def never(*_: object) -> None:
        raise AssertionError("the picture was decoded")

    with Bundle.open(write_tiny_bundle(tmp_path / "b", files=files)) as bundle:
        monkeypatch.setattr(cv2, "imdecode", never)
        with pytest.raises(BadBundleError, match=f"parity/1.jpg' is {words}"):
            bundle.parity_frames()
