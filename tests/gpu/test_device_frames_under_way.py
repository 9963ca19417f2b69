"""Frames under way on a fake device while others come: results, waits, times, and what launches take."""

from __future__ import annotations

import ctypes
import gc
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from device_labelling import check_same, colour_segmenter, host_labels, noise, random_table
from fake_cuda import FakeCuda, Status
from fake_driver import SIGNATURES
from gpu_engines import SPEC, Opened
from pixel_host import PixelHost
from runtime_fakes import SyntheticSource

from dedos_deploy.errors import EngineError
from dedos_deploy.runtime import Frame
from dedos_deploy.runtime.flow import Pipeline
from dedos_deploy.runtime.gpu import result_pool
from dedos_deploy.runtime.gpu.cuda import Event, Stream
from dedos_deploy.runtime.gpu.device_labeller import DeviceLabeller
from dedos_deploy.runtime.gpu.kernels_file import KERNEL_NAMES
from dedos_deploy.runtime.gpu.result_pool import ResultLayout
from dedos_deploy.runtime.labelling import Labelled


def _kept(found: Labelled) -> tuple[Any, ...]:
    return found.label_map.copy(), found.confidence.copy(), found.counts.copy()


def _labeller(opened: Opened, **changes: Any) -> DeviceLabeller:
    engine = opened(**changes)
    return DeviceLabeller(engine, engine.cuda.kernels(b"a fat binary"))


def test_results_outlive_later_frames_and_the_engine(either: Opened, host: PixelHost) -> None:
    labeller, fake = _labeller(either), either.fake
    frame, table = noise(60, 80), random_table(4)
    first = labeller.label(frame, table)
    part = first.label_map[3:, ::2]
    kept, wanted = _kept(first), host_labels(host, frame, table, SPEC)
    later = [labeller.label(noise(60, 80, seed), random_table(9, seed)) for seed in range(1, 11)]
    copies = [_kept(found) for found in later]
    labeller.close()
    either.engines[0].close()
    assert set(fake.live) == {"pinned"}
    for found, copy in zip((first, *later), (kept, *copies), strict=True):
        for array, values in zip((found.label_map, found.confidence), copy[:2], strict=True):
            np.testing.assert_array_equal(array, values)
    check_same(first, wanted)
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
    labeller, fake, table = _labeller(either), either.fake, random_table(4)
    frames = [noise(60, 80, seed) for seed in range(6)]
    found = [labeller.label(frame, table) for frame in frames]
    made = fake.calls["cudaHostAlloc"]
    assert labeller.facts() == {"results_copied": 3}
    for result, frame in zip(found, frames, strict=True):
        check_same(result, host_labels(host, frame, table, SPEC))
    del found[0], result
    check_same(labeller.label(frames[0], table), host_labels(host, frames[0], table, SPEC))
    assert labeller.facts() == {"results_copied": 3} and fake.calls["cudaHostAlloc"] == made
    labeller.close()
    del found
    either.engines[0].close()
    assert fake.live == {}


def test_other_words_allocate_run_and_capture_nothing(either: Opened) -> None:
    labeller, fake, frame = _labeller(either), either.fake, noise(20, 30)
    labeller.label(frame, random_table(3))
    tables = [
        random_table(slots, slots, names) for slots in (17, 200, 1, 64, 256) for names in (5, 300)
    ]
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
    frame, table = noise(600, 800), random_table(4)
    check_same(labeller.label(frame, table), host_labels(host, frame, table, SPEC))
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
    frames = [noise(60, 80, seed) for seed in range(7)]
    tables = [
        random_table(4),
        random_table(30, 3),
        random_table(4, 2),
        random_table(200, 5, 300),
        *[random_table(4)] * 3,
    ]
    wanted = [host_labels(host, *pair, SPEC) for pair in zip(frames, tables, strict=True)]
    pending = [labeller.submit(*pair) for pair in zip(frames, tables, strict=True)]
    for frame in frames:
        frame[:] = 0  # the caller's again
    for index in (1, 0, 5, 6, 2, 4, 3):
        check_same(pending[index].result(), wanted[index])
    labeller.close()


def test_the_next_frame_goes_up_beside_the_work_of_the_one_before(
    opened: Opened, fake: FakeCuda, kernels: Any
) -> None:
    labeller, table = DeviceLabeller(opened(), kernels), random_table(4)
    labeller.label(noise(60, 80), table)
    first = labeller.submit(noise(60, 80, 1), table)
    second = labeller.submit(noise(60, 80, 2), table)
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
    labeller, frame, table = _labeller(either), noise(60, 80), random_table(4)
    pending = labeller.submit(frame, table)

    def interrupted(event: Event) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Event, "synchronize", interrupted)
        patched.setattr(Stream, "synchronize", lambda stream: None)
        pending.result()
    found = pending.result()
    check_same(found, host_labels(host, frame, table, SPEC))
    assert set(found.latency_ms) == {"pre", "engine", "post"}
    labeller.close()


def test_frames_under_way_are_waited_for_at_the_end(either: Opened, host: PixelHost) -> None:
    labeller, frame, table = _labeller(either), noise(60, 80), random_table(4)
    wanted = host_labels(host, frame, table, SPEC)
    pending = labeller.submit(frame, table)
    forgotten = labeller.submit(noise(60, 80, 1), table)
    del forgotten
    labeller.close()
    either.engines[0].close()
    check_same(pending.result(), wanted)
    del pending
    assert either.fake.live == {}


def test_a_result_that_goes_leaves_the_thread_its_gpu(host: PixelHost) -> None:
    fake = FakeCuda(host, devices=2)
    opened = Opened(fake)
    labeller = _labeller(opened)
    found = labeller.label(noise(20, 30), random_table(4))
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
            replace(frame, pixels=noise(60, 80, frame.frame_id))
            if isinstance(frame, Frame)
            else frame
        )


@pytest.mark.usefixtures("kernels_here")
def test_a_recording_gets_the_same_results_with_two_frames_under_way(either: Opened) -> None:
    segmenter = colour_segmenter(either)
    found: list[Any] = []
    Pipeline(_Frames(12), segmenter, on_result=lambda _, result: found.append(result)).run()
    assert len(found) == 12
    for number, result in enumerate(found):
        wanted = segmenter.segment(noise(60, 80, number))
        np.testing.assert_array_equal(result.label_map, wanted.label_map)
        np.testing.assert_array_equal(result.confidence, wanted.confidence)
        np.testing.assert_array_equal(result.counts, wanted.counts)
    assert len({result.label_map.tobytes() for result in found}) > 1
    segmenter.close()
    del result, wanted
    found.clear()
    assert either.fake.live == {}


def test_every_frame_tells_its_own_times(either: Opened) -> None:
    labeller, fake, table = _labeller(either), either.fake, random_table(4)
    durations = {"upload": 500, "dedos_resize": 200, "engine": 4000, "dedos_labels_f32_u8": 300}
    fake.durations.update({**durations, "download": 100})
    labeller.label(noise(60, 80), table)
    pending = [labeller.submit(noise(60, 80, seed), table) for seed in range(2)]
    pre = 200 if fake.integrated else 700
    for latency in (each.result().latency_ms for each in pending):
        # A few ticks for the events, and what the CPU's part took by its own clock.
        assert pre <= latency["pre"] < pre + 1000
        assert 4000 <= latency["engine"] < 4020 and 400 <= latency["post"] < 420
    labeller.close()


def test_times_are_a_frame_s_own_with_results_that_stay_on_the_device_between(
    opened: Opened, fake: FakeCuda, kernels: Any
) -> None:
    labeller, table = DeviceLabeller(opened(), kernels), random_table(4)
    fake.durations.update({"upload": 500, "dedos_resize": 200})
    first = labeller.submit(noise(60, 80), table)
    between = labeller.label_on_device(noise(60, 80, 1), table, 1)
    second = labeller.submit(noise(60, 80, 2), table)
    for pending in (first, second):
        assert 700 <= pending.result().latency_ms["pre"] < 1700
    del between
    labeller.close()


def test_a_frame_that_failed_gives_its_error_and_no_result(
    opened: Opened, fake: FakeCuda, host: PixelHost, kernels: Any
) -> None:
    labeller, table = DeviceLabeller(opened(), kernels), random_table(4)
    first, second = (labeller.submit(noise(60, 80, seed), table) for seed in range(2))
    fake.faults["cudaEventSynchronize"] = Status.cudaErrorInvalidValue
    third = labeller.submit(noise(60, 80, 2), table)
    for _ in range(2):
        assert first.ready
        with pytest.raises(EngineError, match="cudaErrorInvalidValue"):
            first.result()
    wanted = host_labels(host, noise(60, 80, 2), table, SPEC)
    check_same(third.result(), wanted)
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
