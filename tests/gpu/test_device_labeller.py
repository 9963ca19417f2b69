"""Frames labelled on a fake device: the same label maps as on the host, and nothing left behind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from device_fakes import Block, FakeLibrary
from device_labelling import check_same, host_labels, noise, random_table
from fake_cuda import FakeCuda, Status
from fake_driver import DriverStatus
from fake_tensorrt import reference_pooled, reference_scores
from gpu_engines import SPEC, Opened
from pixel_host import PixelHost

from dedos_deploy.errors import BadInputError, EngineError
from dedos_deploy.runtime import Segmentation
from dedos_deploy.runtime.engines.batched import BatchedEngine
from dedos_deploy.runtime.gpu.cuda import Cuda
from dedos_deploy.runtime.gpu.device_labeller import DeviceLabeller
from dedos_deploy.runtime.labelling import HostLabeller
from dedos_deploy.runtime.segmenter import Segmenter
from dedos_deploy.runtime.slots import Thresholds
from dedos_deploy.runtime.tiling import Tiling
from dedos_deploy.spec import GraphSpec
from dedos_deploy.tiles import Grid


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("names", [5, 300])
def test_label_maps_are_those_of_the_host(
    opened: Opened, host: PixelHost, kernels: Any, dtype: Any, names: int
) -> None:
    spec = GraphSpec(SPEC.height, SPEC.width, SPEC.text_width, score_dtype=dtype)
    labeller = DeviceLabeller(opened(spec), kernels)
    sizes = [(60, 80), (20, 30), (33, 47), (90, 120), (32, 48)]
    for index, size in enumerate(sizes):
        table = random_table(3 + 40 * index, index, names)
        frame = noise(*size, seed=index)
        found = labeller.label(frame, table)
        check_same(found, host_labels(host, frame, table, spec))
        assert found.label_map.dtype == (np.uint16 if names > 254 else np.uint8)
        assert set(found.latency_ms) == {"pre", "engine", "post"}
    labeller.close()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_scores_come_from_the_device_when_they_are_asked_for(
    opened: Opened, host: PixelHost, kernels: Any, dtype: Any
) -> None:
    spec = GraphSpec(SPEC.height, SPEC.width, SPEC.text_width, score_dtype=dtype)
    labeller = DeviceLabeller(opened(spec), kernels)
    frame, table = noise(60, 80), random_table(20)
    under_way = [labeller.submit(noise(60, 80, seed), table, explain=seed == 1) for seed in (1, 2)]
    silent, later = labeller.label(frame, table), labeller.label(frame, table, explain=True)
    first = under_way[0].result()
    assert silent.scores is None and under_way[1].result().scores is None
    for found, seen in ((first, noise(60, 80, 1)), (later, frame)):
        wanted = host_labels(host, seen, table, spec)
        assert found.scores is not None and found.scores.dtype == dtype
        small = host.resize(seen, (spec.height, spec.width))
        scores = reference_scores(small[None], table.text, table.valid, dtype=np.dtype(dtype))
        np.testing.assert_array_equal(found.scores, scores[0])
        check_same(found, wanted)
    labeller.close()


def test_pooled_features_come_with_every_frame(
    opened: Opened, host: PixelHost, kernels: Any
) -> None:
    spec = replace(SPEC, pooled_width=5)
    engine = opened(spec)
    labeller = DeviceLabeller(engine, kernels)
    seen, table = [noise(60, 80, seed) for seed in range(4)], random_table(20)
    under_way = [labeller.submit(frame, table) for frame in seen[:2]]
    here = labeller.label(seen[2], table)
    stream = engine.cuda.stream()
    there = labeller.label_on_device(seen[3], table, stream.handle)
    labeller.label(seen[0], table)  # which must not take the place of the one before
    found = [*(one.result() for one in under_way), here, there.to_host()]
    for labelled, frame in zip(found, seen, strict=True):
        small = host.resize(frame, (spec.height, spec.width))
        assert labelled.pooled is not None
        np.testing.assert_array_equal(labelled.pooled, reference_pooled(small[None], 5)[0])
    inputs = {"image": small[None], "text": table.text, "valid": table.valid}
    np.testing.assert_array_equal(engine.infer(inputs)["pooled"], reference_pooled(small[None], 5))
    stream.close()
    labeller.close()


def test_a_view_of_a_frame_is_labelled_too(opened: Opened, host: PixelHost, kernels: Any) -> None:
    labeller = DeviceLabeller(opened(), kernels)
    frame, table = noise(60, 160)[:, ::2], random_table(4)
    check_same(
        labeller.label(frame, table), host_labels(host, np.ascontiguousarray(frame), table, SPEC)
    )
    labeller.close()


def test_results_are_never_written_again(opened: Opened, kernels: Any) -> None:
    labeller = DeviceLabeller(opened(), kernels)
    first = labeller.label(noise(40, 60), random_table(4))
    kept = first.label_map.copy(), first.confidence.copy(), first.counts.copy()
    labeller.label(noise(40, 60, seed=9), random_table(9, seed=9))
    for array, copy in zip((first.label_map, first.confidence, first.counts), kept, strict=True):
        np.testing.assert_array_equal(array, copy)
    labeller.close()


def test_only_a_larger_frame_allocates(opened: Opened, fake: FakeCuda, kernels: Any) -> None:
    labeller = DeviceLabeller(opened(), kernels)
    tables = [random_table(3), random_table(30), random_table(200)]
    for table in tables:
        labeller.label(noise(60, 80), table)
    made = fake.calls["cudaMalloc"], fake.calls["cudaHostAlloc"]
    for index in range(30):
        labeller.label(noise(20 + index, 80), tables[index % 3])
    assert (fake.calls["cudaMalloc"], fake.calls["cudaHostAlloc"]) == made
    live = fake.live
    labeller.label(noise(70, 80), tables[0])
    assert fake.calls["cudaMalloc"] == made[0] + 3 and fake.live == live
    labeller.close()


def test_words_go_up_once_per_change(opened: Opened, fake: FakeCuda, kernels: Any) -> None:
    labeller = DeviceLabeller(opened(), kernels)
    table = random_table(4)
    labeller.label(noise(60, 80), table)
    before = fake.calls["cudaMemcpyAsync"]
    labeller.label(noise(60, 80), table)
    # The frame goes up; ids, confidence and counts come back together.
    assert fake.calls["cudaMemcpyAsync"] - before == 2
    labeller.close()


def test_words_that_something_else_put_there_are_replaced(
    opened: Opened, host: PixelHost, kernels: Any
) -> None:
    engine = opened()
    labeller = DeviceLabeller(engine, kernels)
    frame, table = noise(60, 80), random_table(4)
    labeller.label(frame, table)
    image = np.zeros((1, SPEC.height, SPEC.width, 3), np.uint8)
    other = random_table(30, seed=3)
    engine.infer({"image": image, "text": other.text, "valid": other.valid})
    check_same(labeller.label(frame, table), host_labels(host, frame, table, SPEC))
    labeller.close()


def test_scores_that_are_no_numbers_are_told(opened: Opened, kernels: Any) -> None:
    labeller = DeviceLabeller(opened(poison=True), kernels)
    with pytest.raises(EngineError, match="slot 1 is not finite at row 2, column 3"):
        labeller.label(noise(60, 80), random_table(4))
    labeller.close()


def test_everything_is_released(opened: Opened, fake: FakeCuda, kernels: Any) -> None:
    engine = opened()
    labeller = DeviceLabeller(engine, kernels)
    labeller.label(noise(60, 80), random_table(4))
    labeller.close()
    labeller.close()
    engine.close()
    assert fake.live == {}


def test_a_device_that_is_full_keeps_what_it_has(
    opened: Opened, fake: FakeCuda, kernels: Any
) -> None:
    labeller = DeviceLabeller(opened(), kernels)
    table = random_table(4)
    labeller.label(noise(60, 80), table)
    fake.memory = fake.used + 1000
    with pytest.raises(EngineError, match=r"no room for (a frame|a label map)"):
        labeller.label(noise(600, 800), table)
    fake.memory = 2**30
    labeller.label(noise(60, 80), table)
    labeller.close()


def test_kernels_of_another_gpu_are_told(fake: FakeCuda) -> None:
    fake.faults["cuModuleLoadData"] = DriverStatus.CUDA_ERROR_NO_BINARY_FOR_GPU
    with pytest.raises(EngineError, match="not built for compute capability 8.9; install"):
        Cuda(fake.runtime, fake.driver).kernels(b"a fat binary")


REFUSALS = {
    DriverStatus.CUDA_ERROR_INVALID_IMAGE: "are damaged, or made by a CUDA that is newer",
    DriverStatus.CUDA_ERROR_NO_BINARY_FOR_GPU: "were not built for compute capability 8.9; install",
    DriverStatus.CUDA_ERROR_INVALID_PTX: "the driver cannot compile their PTX",
    DriverStatus.CUDA_ERROR_JIT_COMPILER_NOT_FOUND: "libnvidia-ptxjitcompiler, is missing",
    DriverStatus.CUDA_ERROR_UNSUPPORTED_PTX_VERSION: "their PTX is newer than the driver",
    DriverStatus.CUDA_ERROR_JIT_COMPILATION_DISABLED: "CUDA_DISABLE_PTX_JIT forbids",
    DriverStatus.CUDA_ERROR_SHARED_OBJECT_INIT_FAILED: "were refused by the driver",
    DriverStatus.CUDA_ERROR_NOT_FOUND: "are those of another version",
}


@pytest.mark.parametrize("call", ["cuModuleLoadData", "cuModuleGetFunction"])
@pytest.mark.parametrize("status", REFUSALS, ids=lambda status: status.name)
def test_kernels_that_do_not_load_leave_labelling_to_the_host_and_say_why(
    opened: Opened,
    fake: FakeCuda,
    kernels_here: Path,
    caplog: pytest.LogCaptureFixture,
    status: DriverStatus,
    call: str,
) -> None:
    engine = opened()
    fake.faults[call] = status
    labeller = engine.labeller(threads=1)
    assert isinstance(labeller, HostLabeller)
    (said,) = (record.message for record in caplog.records)
    assert said.startswith("frames are resized and labelled on the CPU: the CUDA kernels")
    assert REFUSALS[status] in said and status.name in said and "nvcc of CUDA 13.0 at most" in said
    assert "module" not in fake.live
    assert labeller.label(noise(60, 80), random_table(4)).label_map.shape == (60, 80)
    # Where the driver takes them, as after an update, the device labels.
    labeller = engine.labeller(threads=1)
    assert isinstance(labeller, DeviceLabeller)
    labeller.close()


@pytest.mark.parametrize(
    "status", [Status.cudaErrorIllegalAddress, Status.cudaErrorMemoryAllocation]
)
def test_a_gpu_without_life_or_room_is_no_reason_to_label_on_the_host(
    opened: Opened, fake: FakeCuda, kernels_here: Path, status: Status
) -> None:
    engine = opened()
    call = "cudaFree" if status == Status.cudaErrorIllegalAddress else "cudaMalloc"
    fake.faults[call] = status
    with pytest.raises(EngineError, match=r"stopped working|no room"):
        engine.labeller(threads=1)


@pytest.mark.usefixtures("kernels_here")
def test_labels_that_are_stable_in_time_are_made_on_the_host_which_says_so(
    opened: Opened, fake: FakeCuda, caplog: pytest.LogCaptureFixture
) -> None:
    engine = BatchedEngine([opened(), opened(replace(SPEC, batch=2))])
    encoded = np.eye(SPEC.text_width, dtype=np.float32)[:2]
    frames = [np.full((32, 48, 3), grey, np.uint8) for grey in (90, 94)]
    thresholds = Thresholds({}, 0.5)
    with Segmenter(
        engine,
        lambda words, **_: encoded,
        classes="a,b",
        thresholds=thresholds,
        threads=1,
        stable=True,
    ) as segmenter:
        said = {record.message for record in caplog.records}
        assert said == {
            "frames are resized and labelled on the CPU: labels that are stable in time are made there"
        }
        views = [segmenter.share("a,b") for _ in range(3)]
        alone = [views[0].segment(frame).confidence for frame in frames]
        pairs = [[(view, frame, 0.0) for view in views[1:]] for frame in frames]
        _, together = (segmenter.together.segment(pair) for pair in pairs)
        for one in together:
            assert isinstance(one, Segmentation)
            np.testing.assert_array_equal(one.confidence, alone[1])
        # It takes over from the first frame: alone, the second would have another confidence.
        assert (segmenter.share("a,b").segment(frames[1]).confidence != alone[1]).any()
        with pytest.raises(BadInputError, match=r"leave result='device' out, or stable"):
            segmenter.segment(frames[0], result="device")
        assert "module" not in fake.live


@pytest.mark.usefixtures("kernels_here")
def test_windows_of_a_frame_are_blended_on_the_host_which_says_so(
    opened: Opened, fake: FakeCuda, caplog: pytest.LogCaptureFixture
) -> None:
    several = BatchedEngine([opened(), opened(replace(SPEC, batch=2))])
    encoded = np.eye(SPEC.text_width, dtype=np.float32)[:2]
    frame = np.random.default_rng(0).integers(0, 256, (96, 144, 3), np.uint8)
    found = []
    for engine in (opened(), several):
        with Segmenter(
            engine,
            lambda words, **_: encoded,
            classes="a,b",
            thresholds=Thresholds({}, 0.2),
            threads=1,
            tiling=Tiling(Grid(2, 2)),
            explain=True,
        ) as segmenter:
            found.append(segmenter.segment(frame))
            segmenter.explain = False
            message = r"looked at through tiles are labelled on the host; leave result='device' out"
            with pytest.raises(BadInputError, match=message):
                segmenter.segment(frame, result="device")
            with pytest.raises(BadInputError, match="lies on a GPU.*without tiles or labels that"):
                segmenter.segment(Block(FakeLibrary(fake), frame, 1).interface())
        assert "module" not in fake.live
    said = {record.message for record in caplog.records}
    assert said == {
        "frames are resized and labelled on the CPU: windows of a frame are blended there"
    }
    one, other = found
    assert one.windows == other.windows == 5
    np.testing.assert_array_equal(one.label_map, other.label_map)
    assert one.evidence is not None and other.evidence is not None
    np.testing.assert_array_equal(one.evidence.scores, other.evidence.scores)
    assert np.ptp(one.evidence.scores) > 0.1


def test_a_frame_that_is_too_large(opened: Opened, kernels: Any) -> None:
    labeller = DeviceLabeller(opened(), kernels)
    huge = np.broadcast_to(np.zeros((1, 1, 3), np.uint8), (2**15, 2**14, 3))
    with pytest.raises(BadInputError, match="more than 268435456 pixels"):
        labeller.label(huge, random_table(4))
    labeller.close()
