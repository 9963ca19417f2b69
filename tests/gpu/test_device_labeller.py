"""Frames labelled on a fake device: the same label maps as on the host, and nothing left behind."""

from __future__ import annotations

import ctypes
import gc
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from device_fakes import Block, FakeLibrary
from fake_cuda import SIGNATURES, DriverStatus, FakeCuda, Status
from fake_tensorrt import reference_pooled, reference_scores
from gpu_engines import SPEC, Opened
from numpy.typing import NDArray
from pixel_host import PixelHost
from runtime_fakes import SyntheticSource

from dedos_deploy.errors import BadInputError, EngineError
from dedos_deploy.runtime import Frame, Segmentation
from dedos_deploy.runtime.engines.batched import BatchedEngine
from dedos_deploy.runtime.flow import Pipeline
from dedos_deploy.runtime.gpu import result_pool
from dedos_deploy.runtime.gpu.cuda import Cuda, Event, Stream
from dedos_deploy.runtime.gpu.cuda_calls import DeviceLostError
from dedos_deploy.runtime.gpu.device_labeller import DeviceLabeller
from dedos_deploy.runtime.gpu.device_runs import on_device
from dedos_deploy.runtime.gpu.kernels_file import KERNEL_NAMES
from dedos_deploy.runtime.gpu.result_pool import ResultLayout
from dedos_deploy.runtime.labelling import HostLabeller, Labelled
from dedos_deploy.runtime.segmenter import Segmenter
from dedos_deploy.runtime.slots import SlotTable, Thresholds
from dedos_deploy.runtime.tiling import Tiling
from dedos_deploy.spec import NONE_UINT16, GraphSpec
from dedos_deploy.tiles import Grid


def _table(slots: int, seed: int = 0, names: int = 5) -> SlotTable:
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, names, slots).astype(np.uint16)
    ids[rng.random(slots) < 0.1] = NONE_UINT16
    text = rng.normal(size=(slots, SPEC.text_width)).astype(np.float32)
    return SlotTable(
        version=1,
        names=tuple(f"class {index}" for index in range(names)),
        class_ids=(0,),
        text=text / np.linalg.norm(text, axis=1, keepdims=True),
        valid=np.ones(slots, np.float32),
        thresholds=rng.random(slots).astype(np.float32) * 0.5,
        slot_ids=ids,
        negatives=(),
    )


def _frame(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def _expected(
    host: PixelHost, frame: NDArray[np.uint8], table: SlotTable, spec: GraphSpec
) -> Labelled:
    """What the host makes of the frame as the device resizes it, which may differ by one level."""
    small = host.resize(frame, (spec.height, spec.width))

    def infer(inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        dtype = np.dtype(spec.score_dtype)
        return {"scores": reference_scores(**{**inputs, "image": small[None]}, dtype=dtype)}

    return HostLabeller(spec, infer, threads=1).label(frame, table)


@pytest.fixture
def kernels(fake: FakeCuda) -> Any:
    return Cuda(fake.runtime, fake.driver).kernels(b"a fat binary")


@pytest.fixture
def kernels_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installation with a fat binary."""
    file = tmp_path / "kernels.fatbin"
    file.write_bytes(b"a fat binary")
    monkeypatch.setattr("dedos_deploy.runtime.gpu.tensorrt_engine.kernels_file", lambda: file)
    return file


def _same(found: Labelled, wanted: Labelled) -> None:
    np.testing.assert_array_equal(found.label_map, wanted.label_map)
    np.testing.assert_array_equal(found.confidence, wanted.confidence)
    np.testing.assert_array_equal(found.counts, wanted.counts)
    assert found.label_map.dtype == wanted.label_map.dtype


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("names", [5, 300])
def test_label_maps_are_those_of_the_host(
    opened: Opened, host: PixelHost, kernels: Any, dtype: Any, names: int
) -> None:
    spec = GraphSpec(SPEC.height, SPEC.width, SPEC.text_width, score_dtype=dtype)
    labeller = DeviceLabeller(opened(spec), kernels)
    sizes = [(60, 80), (20, 30), (33, 47), (90, 120), (32, 48)]
    for index, size in enumerate(sizes):
        table = _table(3 + 40 * index, index, names)
        frame = _frame(*size, seed=index)
        found = labeller.label(frame, table)
        _same(found, _expected(host, frame, table, spec))
        assert found.label_map.dtype == (np.uint16 if names > 254 else np.uint8)
        assert set(found.latency_ms) == {"pre", "engine", "post"}
    labeller.close()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_scores_come_from_the_device_when_they_are_asked_for(
    opened: Opened, host: PixelHost, kernels: Any, dtype: Any
) -> None:
    spec = GraphSpec(SPEC.height, SPEC.width, SPEC.text_width, score_dtype=dtype)
    labeller = DeviceLabeller(opened(spec), kernels)
    frame, table = _frame(60, 80), _table(20)
    under_way = [labeller.submit(_frame(60, 80, seed), table, explain=seed == 1) for seed in (1, 2)]
    silent, later = labeller.label(frame, table), labeller.label(frame, table, explain=True)
    first = under_way[0].result()
    assert silent.scores is None and under_way[1].result().scores is None
    for found, seen in ((first, _frame(60, 80, 1)), (later, frame)):
        wanted = _expected(host, seen, table, spec)
        assert found.scores is not None and found.scores.dtype == dtype
        small = host.resize(seen, (spec.height, spec.width))
        scores = reference_scores(small[None], table.text, table.valid, dtype=np.dtype(dtype))
        np.testing.assert_array_equal(found.scores, scores[0])
        _same(found, wanted)
    labeller.close()


def test_pooled_features_come_with_every_frame(
    opened: Opened, host: PixelHost, kernels: Any
) -> None:
    spec = replace(SPEC, pooled_width=5)
    engine = opened(spec)
    labeller = DeviceLabeller(engine, kernels)
    seen, table = [_frame(60, 80, seed) for seed in range(4)], _table(20)
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
    frame, table = _frame(60, 160)[:, ::2], _table(4)
    _same(labeller.label(frame, table), _expected(host, np.ascontiguousarray(frame), table, SPEC))
    labeller.close()


def test_results_are_never_written_again(opened: Opened, kernels: Any) -> None:
    labeller = DeviceLabeller(opened(), kernels)
    first = labeller.label(_frame(40, 60), _table(4))
    kept = first.label_map.copy(), first.confidence.copy(), first.counts.copy()
    labeller.label(_frame(40, 60, seed=9), _table(9, seed=9))
    for array, copy in zip((first.label_map, first.confidence, first.counts), kept, strict=True):
        np.testing.assert_array_equal(array, copy)
    labeller.close()


def test_only_a_larger_frame_allocates(opened: Opened, fake: FakeCuda, kernels: Any) -> None:
    labeller = DeviceLabeller(opened(), kernels)
    tables = [_table(3), _table(30), _table(200)]
    for table in tables:
        labeller.label(_frame(60, 80), table)
    made = fake.calls["cudaMalloc"], fake.calls["cudaHostAlloc"]
    for index in range(30):
        labeller.label(_frame(20 + index, 80), tables[index % 3])
    assert (fake.calls["cudaMalloc"], fake.calls["cudaHostAlloc"]) == made
    live = fake.live
    labeller.label(_frame(70, 80), tables[0])
    assert fake.calls["cudaMalloc"] == made[0] + 3 and fake.live == live
    labeller.close()


def test_words_go_up_once_per_change(opened: Opened, fake: FakeCuda, kernels: Any) -> None:
    labeller = DeviceLabeller(opened(), kernels)
    table = _table(4)
    labeller.label(_frame(60, 80), table)
    before = fake.calls["cudaMemcpyAsync"]
    labeller.label(_frame(60, 80), table)
    # The frame goes up; ids, confidence and counts come back together.
    assert fake.calls["cudaMemcpyAsync"] - before == 2
    labeller.close()


def test_words_that_something_else_put_there_are_replaced(
    opened: Opened, host: PixelHost, kernels: Any
) -> None:
    engine = opened()
    labeller = DeviceLabeller(engine, kernels)
    frame, table = _frame(60, 80), _table(4)
    labeller.label(frame, table)
    image = np.zeros((1, SPEC.height, SPEC.width, 3), np.uint8)
    other = _table(30, seed=3)
    engine.infer({"image": image, "text": other.text, "valid": other.valid})
    _same(labeller.label(frame, table), _expected(host, frame, table, SPEC))
    labeller.close()


def test_scores_that_are_no_numbers_are_told(opened: Opened, kernels: Any) -> None:
    labeller = DeviceLabeller(opened(poison=True), kernels)
    with pytest.raises(EngineError, match="slot 1 is not finite at row 2, column 3"):
        labeller.label(_frame(60, 80), _table(4))
    labeller.close()


def test_everything_is_released(opened: Opened, fake: FakeCuda, kernels: Any) -> None:
    engine = opened()
    labeller = DeviceLabeller(engine, kernels)
    labeller.label(_frame(60, 80), _table(4))
    labeller.close()
    labeller.close()
    engine.close()
    assert fake.live == {}


def test_a_device_that_is_full_keeps_what_it_has(
    opened: Opened, fake: FakeCuda, kernels: Any
) -> None:
    labeller = DeviceLabeller(opened(), kernels)
    table = _table(4)
    labeller.label(_frame(60, 80), table)
    fake.memory = fake.used + 1000
    with pytest.raises(EngineError, match=r"no room for (a frame|a label map)"):
        labeller.label(_frame(600, 800), table)
    fake.memory = 2**30
    labeller.label(_frame(60, 80), table)
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
    assert labeller.label(_frame(60, 80), _table(4)).label_map.shape == (60, 80)
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
        labeller.label(huge, _table(4))
    labeller.close()


def _segmenter(opened: Opened) -> Segmenter:
    rows = np.eye(SPEC.text_width, dtype=np.float32)
    words = {word: rows[index] for index, word in enumerate(("blue", "green", "red", "car"))}

    def encode(asked: Any, **_: object) -> NDArray[np.float32]:
        return np.stack([words[word] for word in asked])

    return Segmenter(opened(), encode, classes="blue,green", thresholds=Thresholds({}, 0.0))


@pytest.mark.usefixtures("kernels_here")
def test_labels_made_on_the_device_are_explained_by_its_scores(opened: Opened) -> None:
    with _segmenter(opened) as segmenter:
        segmenter.explain = True
        frame = np.zeros((50, 60, 3), np.uint8)
        frame[:, :30, 0], frame[:, 30:, 1] = 255, 200
        result = segmenter.segment(frame)
        for y, x in ((0, 0), (25, 29), (25, 30), (49, 59)):
            first = result.top(y, x)[0]
            assert first.decided and first.name == result.classes[result.label_map[y, x]]
            assert result.confidence[y, x] == np.rint(255 * first.score)
        with pytest.raises(BadInputError, match=r"leave result='device' out, or explain"):
            segmenter.segment(frame, result="device")


@pytest.mark.usefixtures("kernels_here")
def test_segmenter_uses_the_device(opened: Opened, fake: FakeCuda) -> None:
    segmenter = _segmenter(opened)
    frame = np.zeros((50, 60, 3), np.uint8)
    frame[:, :30, 0] = 255
    frame[:, 30:, 2] = 200
    first = segmenter.segment(frame)
    assert first.label_map[25, 5] == 0 and first.counts.sum() == 3000
    segmenter.set_classes("red,blue")
    second = segmenter.segment(frame)
    assert second.label_map[25, 55] == 2 and second.label_map[25, 5] == 0
    assert second.vocabulary_version == 2
    assert opened.engines[0].facts()["results_copied"] == 0
    segmenter.close()
    # Results belong to their receiver, whatever became of what made them.
    assert fake.live == {"pinned": 2}
    assert first.label_map[25, 5] == 0 and second.label_map[25, 55] == 2
    del first, second
    assert fake.live == {}


def test_without_kernels_the_host_labels_and_says_so(
    opened: Opened, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("dedos_deploy.runtime.gpu.tensorrt_engine.kernels_file", lambda: None)
    labeller = opened().labeller(threads=1)
    assert isinstance(labeller, HostLabeller)
    assert "no CUDA kernels" in caplog.text


def test_an_error_on_the_device_ends_one_frame(
    opened: Opened, fake: FakeCuda, host: PixelHost, kernels: Any
) -> None:
    labeller = DeviceLabeller(opened(), kernels)
    frame, table = _frame(60, 80), _table(4)
    labeller.label(frame, table)
    fake.faults["cudaMemcpyAsync"] = Status.cudaErrorInvalidValue
    with pytest.raises(EngineError, match="cudaErrorInvalidValue: words on"):
        labeller.label(frame, table)
    assert not any(stream.queue for stream in fake.streams.values())
    _same(labeller.label(frame, table), _expected(host, frame, table, SPEC))
    labeller.close()


def test_any_thread_may_label_and_another_one_close(
    opened: Opened, fake: FakeCuda, host: PixelHost, kernels: Any
) -> None:
    engine = opened()
    labeller = DeviceLabeller(engine, kernels)
    frame, table = _frame(60, 80), _table(4)
    with ThreadPoolExecutor(1) as first, ThreadPoolExecutor(1) as second:
        for pool in (first, second, first):
            found = pool.submit(labeller.label, frame, table).result(30)
            _same(found, _expected(host, frame, table, SPEC))
        first.submit(labeller.close).result(30)
        second.submit(engine.close).result(30)
    assert fake.live == {"pinned": 1}
    del found
    assert fake.live == {}


def test_a_labeller_opens_on_any_thread(opened: Opened, kernels_here: Path) -> None:
    engine = opened()
    with ThreadPoolExecutor(1) as other:
        labeller = other.submit(on_device, DeviceLabeller, engine, kernels_here).result()
    assert labeller is not None
    labeller.close()


def test_nothing_stays_of_a_labeller_that_cannot_be_made(
    either: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, fake = either(), either.fake
    before, new_event, left = fake.live, Cuda.event, [0]

    def event(cuda: Cuda) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise EngineError("no more events")
        return new_event(cuda)

    monkeypatch.setattr(Cuda, "event", event)
    needed = 17 if fake.integrated else 15
    for count in range(needed + 1):
        left[0] = count
        kernels = engine.cuda.kernels(b"a fat binary")
        if count < needed:
            with pytest.raises(EngineError, match="no more events"):
                DeviceLabeller(engine, kernels)
        else:
            DeviceLabeller(engine, kernels).close()
        assert fake.live == before, count


def test_a_result_that_was_asked_for_before(opened: Opened, kernels_here: Path) -> None:
    segmenter = _segmenter(opened)
    pending = segmenter.submit(_frame(20, 30))
    pending.result()
    assert pending.ready
    with pytest.raises(BadInputError, match="was returned before.*keep what `result` returned"):
        pending.result()
    segmenter.close()


def test_a_lost_device_can_still_be_closed(opened: Opened, fake: FakeCuda, kernels: Any) -> None:
    engine = opened()
    labeller = DeviceLabeller(engine, kernels)
    labeller.label(_frame(60, 80), _table(4))
    fake.sticky = Status.cudaErrorIllegalAddress
    with pytest.raises(DeviceLostError, match="stopped working for this process"):
        labeller.label(_frame(60, 80), _table(4))
    labeller.close()
    engine.close()


def _kept(found: Labelled) -> tuple[Any, ...]:
    return found.label_map.copy(), found.confidence.copy(), found.counts.copy()


@pytest.fixture(params=[False, True], ids=["discrete", "integrated"])
def either(host: PixelHost, request: pytest.FixtureRequest) -> Iterator[Opened]:
    """Engines on a GPU with memory of its own, and on one that shares the CPU's."""
    opener = Opened(FakeCuda(host, integrated=request.param))
    yield opener
    for engine in opener.engines:
        engine.close()


def _labeller(opened: Opened, **changes: Any) -> DeviceLabeller:
    engine = opened(**changes)
    return DeviceLabeller(engine, engine.cuda.kernels(b"a fat binary"))


def test_results_outlive_later_frames_and_the_engine(either: Opened, host: PixelHost) -> None:
    labeller, fake = _labeller(either), either.fake
    frame, table = _frame(60, 80), _table(4)
    first = labeller.label(frame, table)
    part = first.label_map[3:, ::2]
    kept, wanted = _kept(first), _expected(host, frame, table, SPEC)
    later = [labeller.label(_frame(60, 80, seed), _table(9, seed)) for seed in range(1, 11)]
    copies = [_kept(found) for found in later]
    labeller.close()
    either.engines[0].close()
    assert set(fake.live) == {"pinned"}
    for found, copy in zip((first, *later), (kept, *copies), strict=True):
        for array, values in zip((found.label_map, found.confidence), copy, strict=False):
            np.testing.assert_array_equal(array, values)
    _same(first, wanted)
    blocks = fake.live["pinned"]
    del first, later, found, array
    # A view of a label map holds its block as the label map does.
    np.testing.assert_array_equal(part, kept[0][3:, ::2])
    assert blocks == 11 and fake.live == {"pinned": 1}
    del part
    assert fake.live == {}
    assert fake.calls["cudaHostAlloc"] == fake.calls["cudaFreeHost"]
    assert fake.calls["cudaMalloc"] == fake.calls["cudaFree"] - 1  # one more has the context made


def test_held_results_are_copied_once_all_blocks_are_out(
    either: Opened, host: PixelHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = ResultLayout.room_for(60 * 80)
    monkeypatch.setattr(result_pool, "MOST_BYTES", 3 * block)
    labeller, fake, table = _labeller(either), either.fake, _table(4)
    frames = [_frame(60, 80, seed) for seed in range(6)]
    found = [labeller.label(frame, table) for frame in frames]
    made = fake.calls["cudaHostAlloc"]
    assert labeller.facts() == {"results_copied": 3}
    for result, frame in zip(found, frames, strict=True):
        _same(result, _expected(host, frame, table, SPEC))
    del found[0], result
    _same(labeller.label(frames[0], table), _expected(host, frames[0], table, SPEC))
    assert labeller.facts() == {"results_copied": 3} and fake.calls["cudaHostAlloc"] == made
    labeller.close()
    del found
    either.engines[0].close()
    assert fake.live == {}


def test_other_words_allocate_run_and_capture_nothing(either: Opened) -> None:
    labeller, fake, frame = _labeller(either), either.fake, _frame(20, 30)
    labeller.label(frame, _table(3))
    tables = [_table(slots, slots, names) for slots in (17, 200, 1, 64, 256) for names in (5, 300)]
    setup = (
        "cudaMalloc cudaFree cudaHostAlloc cudaFreeHost cudaStreamBeginCapture "
        "cudaGraphInstantiate cudaEventCreateWithFlags cudaStreamCreateWithFlags"
    ).split()
    before = [fake.calls[name] for name in setup]
    runs = [context.runs for context in either.module.contexts]
    for change in range(300):
        labeller.label(frame, tables[change * 7 % len(tables)])
    assert [fake.calls[name] for name in setup] == before
    assert [context.runs for context in either.module.contexts] == runs
    labeller.close()


def test_an_integrated_gpu_reads_and_writes_the_host_s_memory(host: PixelHost) -> None:
    opened = Opened(FakeCuda(host, integrated=True))
    labeller, fake = _labeller(opened), opened.fake
    device = fake.used
    frame, table = _frame(600, 800), _table(4)
    _same(labeller.label(frame, table), _expected(host, frame, table, SPEC))
    before = fake.calls["cudaMemcpyAsync"]
    labeller.label(frame, table)
    # The thread slept until it was there, on events.
    assert fake.calls["cudaStreamSynchronize"] == 0 and set(fake.events) == fake.sleepers
    # Only the counts are copied, and nothing of a frame's size lies in memory of the device's own.
    assert fake.calls["cudaMemcpyAsync"] - before == 1 and fake.used == device
    labeller.close()
    opened.engines[0].close()
    assert fake.live == {}


def test_two_frames_under_way(either: Opened, host: PixelHost) -> None:
    labeller = _labeller(either)
    frames = [_frame(60, 80, seed) for seed in range(7)]
    tables = [_table(4), _table(30, 3), _table(4, 2), _table(200, 5, 300), *[_table(4)] * 3]
    wanted = [_expected(host, *pair, SPEC) for pair in zip(frames, tables, strict=True)]
    pending = [labeller.submit(*pair) for pair in zip(frames, tables, strict=True)]
    for frame in frames:
        frame[:] = 0  # the caller's again
    for index in (1, 0, 5, 6, 2, 4, 3):
        _same(pending[index].result(), wanted[index])
    labeller.close()


def test_the_next_frame_goes_up_beside_the_work_of_the_one_before(
    opened: Opened, fake: FakeCuda, kernels: Any
) -> None:
    labeller, table = DeviceLabeller(opened(), kernels), _table(4)
    labeller.label(_frame(60, 80), table)
    first = labeller.submit(_frame(60, 80, 1), table)
    second = labeller.submit(_frame(60, 80, 2), table)
    upload = second.frame.upload
    assert upload is not None
    upload.wait()
    compute = fake.streams[opened.engines[0].stream.handle]
    # The frame is on the device, and of the one before not all is done.
    assert compute.queue and not fake.marks[first.frame.read.handle].passed
    first.result()
    second.result()
    labeller.close()


def test_a_wait_that_was_interrupted_is_made_up_for(
    either: Opened, host: PixelHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    labeller, frame, table = _labeller(either), _frame(60, 80), _table(4)
    pending = labeller.submit(frame, table)

    def interrupted(event: Event) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Event, "synchronize", interrupted)
        patched.setattr(Stream, "synchronize", lambda stream: None)
        pending.result()
    found = pending.result()
    _same(found, _expected(host, frame, table, SPEC))
    assert set(found.latency_ms) == {"pre", "engine", "post"}
    labeller.close()


def test_frames_under_way_are_waited_for_at_the_end(either: Opened, host: PixelHost) -> None:
    labeller, frame, table = _labeller(either), _frame(60, 80), _table(4)
    wanted = _expected(host, frame, table, SPEC)
    pending = labeller.submit(frame, table)
    forgotten = labeller.submit(_frame(60, 80, 1), table)
    del forgotten
    labeller.close()
    either.engines[0].close()
    _same(pending.result(), wanted)
    del pending
    assert either.fake.live == {}


def test_a_result_that_goes_leaves_the_thread_its_gpu(host: PixelHost) -> None:
    fake = FakeCuda(host, devices=2)
    opened = Opened(fake)
    labeller = _labeller(opened)
    found = labeller.label(_frame(20, 30), _table(4))
    labeller.close()
    opened.engines[0].close()
    fake.runtime.cudaSetDevice(1)
    del found
    assert fake.live == {} and fake.runtime.cudaGetDevice()[1] == 1


class _Frames(SyntheticSource):
    """Frames of noise."""

    def read(self, timeout_s: float) -> Any:
        frame = super().read(timeout_s)
        return (
            replace(frame, pixels=_frame(60, 80, frame.frame_id))
            if isinstance(frame, Frame)
            else frame
        )


@pytest.mark.usefixtures("kernels_here")
def test_a_recording_gets_the_same_results_with_two_frames_under_way(either: Opened) -> None:
    segmenter = _segmenter(either)
    found: list[Any] = []
    Pipeline(_Frames(12), segmenter, on_result=lambda _, result: found.append(result)).run()
    assert len(found) == 12
    for number, result in enumerate(found):
        wanted = segmenter.segment(_frame(60, 80, number))
        np.testing.assert_array_equal(result.label_map, wanted.label_map)
        np.testing.assert_array_equal(result.confidence, wanted.confidence)
        np.testing.assert_array_equal(result.counts, wanted.counts)
    assert len({result.label_map.tobytes() for result in found}) > 1
    segmenter.close()
    del result, wanted
    found.clear()
    assert either.fake.live == {}


def test_every_frame_tells_its_own_times(either: Opened) -> None:
    labeller, fake, table = _labeller(either), either.fake, _table(4)
    durations = {"upload": 500, "dedos_resize": 200, "engine": 4000, "dedos_labels_f32_u8": 300}
    fake.durations.update({**durations, "download": 100})
    labeller.label(_frame(60, 80), table)
    pending = [labeller.submit(_frame(60, 80, seed), table) for seed in range(2)]
    pre = 200 if fake.integrated else 700
    for latency in (each.result().latency_ms for each in pending):
        # A few ticks for the events, and what the CPU's part took by its own clock.
        assert pre <= latency["pre"] < pre + 1000
        assert 4000 <= latency["engine"] < 4020 and 400 <= latency["post"] < 420
    labeller.close()


def test_times_are_a_frame_s_own_with_results_that_stay_on_the_device_between(
    opened: Opened, fake: FakeCuda, kernels: Any
) -> None:
    labeller, table = DeviceLabeller(opened(), kernels), _table(4)
    fake.durations.update({"upload": 500, "dedos_resize": 200})
    first = labeller.submit(_frame(60, 80), table)
    between = labeller.label_on_device(_frame(60, 80, 1), table, 1)
    second = labeller.submit(_frame(60, 80, 2), table)
    for pending in (first, second):
        assert 700 <= pending.result().latency_ms["pre"] < 1700
    del between
    labeller.close()


def test_a_frame_that_failed_gives_its_error_and_no_result(
    opened: Opened, fake: FakeCuda, host: PixelHost, kernels: Any
) -> None:
    labeller, table = DeviceLabeller(opened(), kernels), _table(4)
    first, second = (labeller.submit(_frame(60, 80, seed), table) for seed in range(2))
    fake.faults["cudaEventSynchronize"] = Status.cudaErrorInvalidValue
    third = labeller.submit(_frame(60, 80, 2), table)
    for _ in range(2):
        assert first.ready
        with pytest.raises(EngineError, match="cudaErrorInvalidValue"):
            first.result()
    wanted = _expected(host, _frame(60, 80, 2), table, SPEC)
    _same(third.result(), wanted)
    fake.faults["cudaEventSynchronize"] = Status.cudaErrorInvalidValue
    labeller.close()
    with pytest.raises(EngineError, match="cudaErrorInvalidValue"):
        second.result()
    opened.engines[0].close()
    del first, second, third
    gc.collect()  # an error and where it was raised hold each other
    assert fake.live == {}


def test_launches_are_told_what_the_kernels_take() -> None:
    """The stand-in refuses other arguments than these, so they must be those of the source."""
    source = (Path(__file__).parents[2] / "runtime" / "native" / "frame_kernels.cu").read_text()
    text = source[source.index('extern "C"') :].replace("\\\n", " ")
    kinds = {
        found["name"]: tuple(map(_ctype, found["parameters"].split(",")))
        for found in re.finditer(
            r"__launch_bounds__\(256\)\s+(?P<name>\w+)\((?P<parameters>[^)]*)\)", text
        )
        if found["name"] != "name"
    }
    for macro, parameters in re.findall(
        r"#define (\w+)\([^)]*\)\s+__global__ void __launch_bounds__\(256\)\s+name\(([^)]*)\)", text
    ):
        for name in re.findall(rf"^{macro}\((\w+),", text, re.MULTILINE):
            kinds[name] = tuple(map(_ctype, parameters.split(",")))
    assert kinds == SIGNATURES and set(kinds) == set(KERNEL_NAMES)


def _ctype(parameter: str) -> Any:
    if "*" in parameter:
        return ctypes.c_void_p
    return ctypes.c_longlong if "long long" in parameter else ctypes.c_int
