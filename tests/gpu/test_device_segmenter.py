"""A segmenter whose frames a fake device labels: threads, errors, and what stays of them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from device_labelling import check_same, colour_segmenter, host_labels, noise, random_table
from fake_cuda import FakeCuda, Status
from gpu_engines import SPEC, Opened
from pixel_host import PixelHost

from dedos_deploy.errors import BadInputError, EngineError
from dedos_deploy.runtime.gpu.cuda import Cuda
from dedos_deploy.runtime.gpu.cuda_calls import DeviceLostError
from dedos_deploy.runtime.gpu.device_labeller import DeviceLabeller
from dedos_deploy.runtime.gpu.device_runs import on_device
from dedos_deploy.runtime.labelling import HostLabeller


@pytest.mark.usefixtures("kernels_here")
def test_labels_made_on_the_device_are_explained_by_its_scores(opened: Opened) -> None:
    with colour_segmenter(opened) as segmenter:
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
    segmenter = colour_segmenter(opened)
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
    frame, table = noise(60, 80), random_table(4)
    labeller.label(frame, table)
    fake.faults["cudaMemcpyAsync"] = Status.cudaErrorInvalidValue
    with pytest.raises(EngineError, match="cudaErrorInvalidValue: words on"):
        labeller.label(frame, table)
    assert not any(stream.queue for stream in fake.streams.values())
    check_same(labeller.label(frame, table), host_labels(host, frame, table, SPEC))
    labeller.close()


def test_any_thread_may_label_and_another_one_close(
    opened: Opened, fake: FakeCuda, host: PixelHost, kernels: Any
) -> None:
    engine = opened()
    labeller = DeviceLabeller(engine, kernels)
    frame, table = noise(60, 80), random_table(4)
    with ThreadPoolExecutor(1) as first, ThreadPoolExecutor(1) as second:
        for pool in (first, second, first):
            found = pool.submit(labeller.label, frame, table).result(30)
            check_same(found, host_labels(host, frame, table, SPEC))
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
    segmenter = colour_segmenter(opened)
    pending = segmenter.submit(noise(20, 30))
    pending.result()
    assert pending.ready
    with pytest.raises(BadInputError, match="was returned before.*keep what `result` returned"):
        pending.result()
    segmenter.close()


def test_a_lost_device_can_still_be_closed(opened: Opened, fake: FakeCuda, kernels: Any) -> None:
    engine = opened()
    labeller = DeviceLabeller(engine, kernels)
    labeller.label(noise(60, 80), random_table(4))
    fake.sticky = Status.cudaErrorIllegalAddress
    with pytest.raises(DeviceLostError, match="stopped working for this process"):
        labeller.label(noise(60, 80), random_table(4))
    labeller.close()
    engine.close()
