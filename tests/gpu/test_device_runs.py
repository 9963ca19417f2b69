"""Several frames in one run on a fake device: each as the host labels it, and nothing left behind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from device_labelling import host_labels, noise
from fake_cuda import FakeCuda, Status
from fake_tensorrt import fake_module, reference_pooled, reference_scores
from gpu_engines import SPEC, Opened
from numpy.typing import NDArray
from pixel_host import PixelHost
from tiny_bundle import stripes, write_tiny_bundle

from dedos_deploy.bundle import Bundle
from dedos_deploy.errors import BadInputError, EngineError
from dedos_deploy.runtime import Segmentation, Segmenter
from dedos_deploy.runtime.engines.batched import BatchedEngine
from dedos_deploy.runtime.gpu.cuda import Cuda
from dedos_deploy.runtime.gpu.device_runs import DeviceRunLabeller
from dedos_deploy.runtime.gpu.engine_store import EngineStore
from dedos_deploy.runtime.labelling import Asked, HostLabeller, Labelled
from dedos_deploy.runtime.loading import bundle_parts
from dedos_deploy.runtime.slots import SlotTable
from dedos_deploy.spec import GraphSpec

KERNELS_FILE = "dedos_deploy.runtime.gpu.tensorrt_engine.kernels_file"
SIZES = ((60, 80), (20, 30), (33, 47), (90, 120))


@pytest.fixture
def kernels(fake: FakeCuda) -> Any:
    return Cuda(fake.runtime, fake.driver).kernels(b"a fat binary")


def words(slots: int) -> NDArray[np.float32]:
    text = np.random.default_rng(slots).normal(size=(slots, SPEC.text_width)).astype(np.float32)
    unit: NDArray[np.float32] = text / np.linalg.norm(text, axis=1, keepdims=True)
    return unit


def table(text: NDArray[np.float32], seed: int, names: int = 5) -> SlotTable:
    """A camera's own thresholds and class ids for the same words."""
    rng = np.random.default_rng(seed)
    return SlotTable(
        version=1,
        names=tuple(f"class {index}" for index in range(names)),
        class_ids=(0,),
        text=text.copy(),
        valid=np.ones(len(text), np.float32),
        thresholds=rng.random(len(text)).astype(np.float32) * 0.5,
        slot_ids=rng.integers(0, names, len(text)).astype(np.uint16),
        negatives=(),
    )


def same(found: Labelled | Exception, wanted: Labelled) -> None:
    assert isinstance(found, Labelled), found
    for name in ("label_map", "confidence", "counts"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))
    assert found.label_map.dtype == wanted.label_map.dtype


def asked(count: int, slots: int) -> list[tuple[Any, SlotTable]]:
    """Frames of every size, each with thresholds and ids of its own, the last of them 16 bits wide."""
    names = [5] * (count - 1) + [300]
    return [(noise(*SIZES[n % 4], seed=n), table(words(slots), n, names[n])) for n in range(count)]


def as_asked(frames: Sequence[tuple[Any, SlotTable]]) -> list[Asked]:
    return [Asked(frame, own) for frame, own in frames]


def check(found: Sequence[Any], frames: Sequence[Any], host: PixelHost, spec: GraphSpec) -> None:
    for one, (frame, own) in zip(found, frames, strict=True):
        same(one, host_labels(host, frame, own, spec))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("batch", [2, 4])
def test_rows_are_labelled_as_on_the_host(
    opened: Opened, host: PixelHost, kernels: Any, batch: int, dtype: Any
) -> None:
    spec = replace(SPEC, batch=batch, score_dtype=dtype)
    labeller = DeviceRunLabeller(opened(spec), kernels)
    for slots in (3, 16, 40, 3):
        frames = asked(batch, slots)
        check(labeller.label_all(as_asked(frames)), frames, host, spec)
    labeller.close()


def test_rows_keep_their_own_scores_when_they_are_asked_for(
    opened: Opened, host: PixelHost, kernels: Any
) -> None:
    spec = replace(SPEC, batch=3)
    labeller = DeviceRunLabeller(opened(spec), kernels)
    frames = as_asked(asked(3, 20))
    silent, *explained = labeller.label_all(
        [frames[0], *(replace(f, explain=True) for f in frames[1:])]
    )
    assert isinstance(silent, Labelled) and silent.scores is None
    for found, frame in zip(explained, frames[1:], strict=True):
        small = host.resize(np.asarray(frame.pixels), (spec.height, spec.width))
        wanted = reference_scores(small[None], frame.table.text, frame.table.valid, np.float32)
        assert isinstance(found, Labelled) and found.scores is not None
        np.testing.assert_array_equal(found.scores, wanted[0])
    labeller.close()


def test_rows_keep_their_own_pooled_features(opened: Opened, host: PixelHost, kernels: Any) -> None:
    spec = replace(SPEC, batch=3, pooled_width=4)
    labeller = DeviceRunLabeller(opened(spec), kernels)
    frames = as_asked(asked(3, 20))
    for found, frame in zip(labeller.label_all(frames), frames, strict=True):
        small = host.resize(np.asarray(frame.pixels), (spec.height, spec.width))
        assert isinstance(found, Labelled) and found.pooled is not None
        np.testing.assert_array_equal(found.pooled, reference_pooled(small[None], 4)[0])
    labeller.close()


def test_words_go_up_when_they_change_and_thresholds_with_every_frame(
    opened: Opened, fake: FakeCuda, host: PixelHost, kernels: Any
) -> None:
    spec = replace(SPEC, batch=2)
    labeller = DeviceRunLabeller(opened(spec), kernels)
    frames = asked(2, 4)
    labeller.label_all(as_asked(frames))
    before = fake.calls["cudaMemcpyAsync"]
    check(labeller.label_all(as_asked(frames[::-1])), frames[::-1], host, spec)
    # Of each row the frame goes up, then its thresholds; its label map comes back.
    assert fake.calls["cudaMemcpyAsync"] - before == 6
    allocated = fake.calls["cudaMalloc"], fake.calls["cudaHostAlloc"]
    for slots in (30, 200, 4):
        labeller.label_all(as_asked(asked(2, slots)))
    assert (fake.calls["cudaMalloc"], fake.calls["cudaHostAlloc"]) == allocated
    labeller.close()


def test_a_frame_that_cannot_be_read_takes_nobody_with_it(
    opened: Opened, host: PixelHost, kernels: Any
) -> None:
    spec = replace(SPEC, batch=2)
    labeller = DeviceRunLabeller(opened(spec), kernels)
    (_, own), good = asked(2, 4)
    huge = np.broadcast_to(np.zeros((1, 1, 3), np.uint8), (2**15, 2**14, 3))
    refused, found = labeller.label_all(as_asked([(huge, own), good]))
    assert isinstance(refused, BadInputError) and "more than 268435456 pixels" in str(refused)
    same(found, host_labels(host, *good, spec))
    labeller.close()


def test_scores_that_are_no_numbers_are_told_by_row(opened: Opened, kernels: Any) -> None:
    labeller = DeviceRunLabeller(opened(replace(SPEC, batch=2), poison=True), kernels)
    found = labeller.label_all(as_asked(asked(2, 4)))
    assert isinstance(found[0], EngineError) and "slot 1 is not finite" in str(found[0])
    labeller.close()


def test_an_error_on_the_device_ends_one_run(
    opened: Opened, fake: FakeCuda, host: PixelHost, kernels: Any
) -> None:
    spec = replace(SPEC, batch=2)
    labeller = DeviceRunLabeller(opened(spec), kernels)
    frames = asked(2, 4)
    labeller.label_all(as_asked(frames))
    fake.faults["cudaMemcpyAsync"] = Status.cudaErrorInvalidValue
    with pytest.raises(EngineError, match="cudaErrorInvalidValue"):
        labeller.label_all(as_asked(frames))
    assert not any(stream.queue for stream in fake.streams.values())
    check(labeller.label_all(as_asked(frames)), frames, host, spec)
    labeller.close()


def test_everything_is_released(opened: Opened, fake: FakeCuda, kernels: Any) -> None:
    engine = opened(replace(SPEC, batch=4))
    labeller = DeviceRunLabeller(engine, kernels)
    found = labeller.label_all(as_asked(asked(4, 4)))
    labeller.close()
    engine.close()
    assert fake.live == {"pinned": 4}
    del found
    assert fake.live == {}


def test_without_kernels_the_host_labels_rows_and_says_so(
    opened: Opened, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(KERNELS_FILE, lambda: None)
    (labeller,) = opened(replace(SPEC, batch=2)).run_labellers(threads=1).values()
    assert isinstance(labeller, HostLabeller) and "no CUDA kernels" in caplog.text
    assert not opened().run_labellers(threads=1)


@pytest.mark.parametrize("target", ["trt", "rtx"])
def test_every_graph_of_a_bundle_gets_its_engine_and_its_check(
    fake: FakeCuda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    (tmp_path / "kernels.fatbin").write_bytes(b"a fat binary")
    monkeypatch.setattr(KERNELS_FILE, lambda: tmp_path / "kernels.fatbin")
    path, folder = (
        write_tiny_bundle(tmp_path / "tiny", target="trt", batches=(2,)),
        tmp_path / "kept",
    )
    module, cuda = fake_module(fake, rtx=target == "rtx"), Cuda(fake.runtime, fake.driver)
    with Bundle.open(path) as bundle:
        engines = [
            EngineStore(
                bundle, target, graph=bundle.graph(batch), trt=module, cuda=cuda, folder=folder
            ).open()
            for batch in bundle.batches
        ]
        assert [engine.spec.batch for engine in engines] == [1, 2] and len(module.builds) == 2
        assert len(list(folder.glob("*.engine"))) == len(list(folder.glob("*.check.json"))) == 2
        parts = bundle_parts(bundle, background="threshold", threshold=None)
        with Segmenter(
            BatchedEngine(engines),
            parts.encode,
            classes="red,green,blue",
            thresholds=parts.thresholds,
            threads=1,
        ) as shared:
            views = [shared.share("red,green,blue") for _ in range(3)]
            frames = [(view, stripes(40 + n, 60), 0.0) for n, view in enumerate(views)]
            for found, (view, frame, _) in zip(
                shared.together.segment(frames), frames, strict=True
            ):
                assert isinstance(found, Segmentation)
                np.testing.assert_array_equal(found.label_map, view.segment(frame).label_map)
            assert shared.together.batches == (1, 2)
