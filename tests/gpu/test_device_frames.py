"""Frames and results that stay on a fake GPU: the same label maps, in order with everybody's streams,
and memory that lives as long as somebody reads it."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from device_fakes import FakeLibrary
from device_labelling import check_same, host_labels, noise, random_table
from fake_cuda import POISON, FakeCuda
from gpu_engines import SPEC, Opened
from numpy.typing import NDArray
from pixel_host import PixelHost

from dedos_deploy.errors import BadInputError, EngineError
from dedos_deploy.runtime import Nv12Frame, Segmenter
from dedos_deploy.runtime.gpu import result_pool
from dedos_deploy.runtime.gpu.cuda import Stream
from dedos_deploy.runtime.gpu.device_labeller import DeviceLabeller
from dedos_deploy.runtime.gpu.device_results import MOST_LENT, DeviceMemory, OnDevice
from dedos_deploy.runtime.pixels import ForeignFrame, check_pixels
from dedos_deploy.runtime.results import DeviceSegmentation
from dedos_deploy.runtime.slots import Thresholds


@pytest.fixture
def labeller(opened: Opened) -> Iterator[DeviceLabeller]:
    engine = opened()
    made = DeviceLabeller(engine, engine.cuda.kernels(b"a fat binary"))
    yield made
    made.close()


@pytest.fixture
def library(fake: FakeCuda) -> FakeLibrary:
    return FakeLibrary(fake)


def _foreign(given: Any, order: Any = "bgr", stream: int | None = None) -> ForeignFrame:
    pixels = check_pixels(given, order, stream)
    assert isinstance(pixels, ForeignFrame)
    return pixels


# Frames


@pytest.mark.parametrize("protocol", ["interface", "old interface", "dlpack", "old dlpack"])
def test_a_frame_is_read_once_its_writer_is_done(
    labeller: DeviceLabeller, library: FakeLibrary, host: PixelHost, protocol: str
) -> None:
    frame, table = noise(60, 80), random_table(4)
    stream = 1 if protocol == "old interface" else library.stream
    block = library.put(frame, stream=stream)
    given: Any = {
        "interface": block.interface(),
        "old interface": block.interface(version=0),
        "dlpack": block.dlpack(),
        "old dlpack": block.dlpack(old=True),
    }[protocol]
    check_same(labeller.label(_foreign(given), table), host_labels(host, frame, table, SPEC))
    if "dlpack" in protocol:
        assert given.versions == [(1, 1) if protocol == "dlpack" else None]


def test_a_writer_that_names_no_stream_is_waited_for_on_the_caller_s(
    labeller: DeviceLabeller, library: FakeLibrary, host: PixelHost
) -> None:
    frame, table = noise(60, 80), random_table(4)
    given = library.put(frame).interface(stream=None)
    wanted = host_labels(host, frame, table, SPEC)
    check_same(labeller.label(_foreign(given, stream=library.stream), table), wanted)


@pytest.mark.parametrize("view", ["rgb", "planar", "padded", "upside down", "with alpha", "small"])
def test_pictures_of_any_strides(
    labeller: DeviceLabeller, library: FakeLibrary, host: PixelHost, view: str
) -> None:
    rng, table = np.random.default_rng(0), random_table(4)
    plain = noise(60, 80)
    frame = {
        "rgb": plain,
        "planar": rng.integers(0, 256, (3, 60, 80), np.uint8).transpose(1, 2, 0),
        "padded": plain[:, 7:31],
        "upside down": plain[::-1],
        "with alpha": rng.integers(0, 256, (60, 80, 4), np.uint8)[:, :, :3],
        "small": plain[:5, :4],
    }[view]
    order = "rgb" if view == "rgb" else "bgr"
    bgr = np.ascontiguousarray(frame[:, :, ::-1] if order == "rgb" else frame)
    found = labeller.label(_foreign(library.put(frame).interface(), order), table)
    check_same(found, host_labels(host, bgr, table, SPEC))


@pytest.mark.parametrize("pairs", [False, True], ids=["rows", "pairs"])
def test_nv12_on_the_device_and_on_the_host(
    labeller: DeviceLabeller, library: FakeLibrary, host: PixelHost, pairs: bool
) -> None:
    rng, table = np.random.default_rng(1), random_table(4)
    luma = rng.integers(0, 256, (60, 96), np.uint8)[:, :80]
    chroma = rng.integers(0, 256, (30, 128), np.uint8)
    chroma = chroma.reshape(30, 64, 2)[:, :40] if pairs else chroma[:, :80]
    there = Nv12Frame(*(library.put(plane).interface() for plane in (luma, chroma)), "bt709")
    here = Nv12Frame(luma, chroma, "bt709")
    wanted = host_labels(host, here.frame_bgr, table, SPEC)
    check_same(labeller.label(_foreign(there), table), wanted)
    before = library.fake.used
    check_same(labeller.label(here, table), wanted)
    assert library.fake.used > before  # a place for frames of the host, which none needed till now


def test_a_frame_of_the_device_is_not_copied(
    labeller: DeviceLabeller, library: FakeLibrary, fake: FakeCuda
) -> None:
    given, table = library.put(noise(60, 80)).interface(), random_table(4)
    labeller.label(_foreign(given), table)
    before = fake.calls["cudaMemcpyAsync"], fake.calls["cudaMalloc"]
    labeller.label(_foreign(given), table)
    # The result comes back, and nothing goes up.
    assert (fake.calls["cudaMemcpyAsync"], fake.calls["cudaMalloc"]) == (before[0] + 1, before[1])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"typestr": "<f4"}, r"a device_fakes\.ByInterface as a frame must have dtype uint8"),
        (
            {"shape": (60, 80)},
            r"shape \[H, W, 3\].*not \[60, 80\]; view channels first with permute",
        ),
        ({"shape": (0, 80, 3)}, "at least one pixel"),
        (
            {"version": 4},
            "^a device_fakes.ByInterface has version 4 of __cuda_array_interface__, but 3 is the newest",
        ),
        ({"stream": 0}, "names stream 0, which __cuda_array_interface__ forbids"),
        ({"mask": object()}, "has a mask"),
        ({"data": None}, r"neither to DLPack nor to __cuda_array_interface__ \(TypeError"),
        ({"shape": None}, "give an array of a library that does"),
        ({"data": (4096, False)}, "lies not on a GPU, but this engine is on GPU 0"),
    ],
)
def test_what_is_no_frame_is_said(
    labeller: DeviceLabeller, library: FakeLibrary, host: PixelHost, changes: Any, says: str
) -> None:
    frame, table = noise(60, 80), random_table(4)
    block = library.put(frame)
    with pytest.raises(BadInputError, match=says):
        labeller.label(_foreign(block.interface(**changes)), table)
    check_same(
        labeller.label(_foreign(block.interface()), table), host_labels(host, frame, table, SPEC)
    )


def test_memory_of_another_gpu_is_said(
    labeller: DeviceLabeller, library: FakeLibrary, fake: FakeCuda
) -> None:
    block = library.put(noise(60, 80))
    with pytest.raises(BadInputError, match=r"ByDlpack lies on GPU 1, but this engine is on GPU 0"):
        labeller.label(_foreign(block.dlpack(device=1)), random_table(4))
    fake.elsewhere.add(block.address)
    with pytest.raises(
        BadInputError, match=r"ByInterface lies on GPU 1.*open the engine with that"
    ):
        labeller.label(_foreign(block.interface()), random_table(4))


def test_words_of_the_library_reach_the_caller(
    labeller: DeviceLabeller, library: FakeLibrary
) -> None:
    given = library.put(noise(4, 4)).dlpack()

    def refuse(stream: int, max_version: Any) -> object:
        raise BufferError("it has a gradient")

    given._capsule = refuse  # type: ignore[method-assign]
    with pytest.raises(BadInputError, match="cannot be read as it is: it has a gradient"):
        labeller.label(_foreign(given), random_table(4))


def test_half_of_a_protocol_is_said(labeller: DeviceLabeller) -> None:
    for half in ({"__dlpack__": print}, {"__cuda_array_interface__": {"version": 3}}):
        given = type("Half", (), half)()
        with pytest.raises(BadInputError, match=r"Half keeps neither to DLPack nor to"):
            labeller.label(_foreign(given), random_table(4))


def test_planes_that_are_no_nv12(labeller: DeviceLabeller, library: FakeLibrary) -> None:
    luma, odd = noise(60, 80)[:, :, 0], np.zeros((30, 80), np.uint8)
    with pytest.raises(BadInputError, match=r"pixels of a row side by side.*\[240, 3\]"):
        planes = (library.put(plane).interface() for plane in (luma, odd))
        labeller.label(_foreign(Nv12Frame(*planes)), random_table(4))
    with pytest.raises(BadInputError, match=r"not \[30, 80\] and \[30, 80\]; crop the padding"):
        planes = (library.put(plane).interface() for plane in (odd, odd))
        labeller.label(_foreign(Nv12Frame(*planes)), random_table(4))


# Results


def _maps(library: FakeLibrary, there: OnDevice) -> tuple[NDArray[Any], NDArray[Any]]:
    """What a library finds that reads both by DLPack."""
    ids, confidence = library.read(there.label_map), library.read(there.confidence)
    library.finish()
    return ids[0], confidence[0]


@pytest.mark.parametrize("names", [5, 300])
def test_a_result_is_ready_in_order_and_nobody_waits(
    labeller: DeviceLabeller, library: FakeLibrary, host: PixelHost, fake: FakeCuda, names: int
) -> None:
    frame, table = noise(60, 80), random_table(4, names=names)
    wanted = host_labels(host, frame, table, SPEC)
    labeller.label_on_device(_foreign(library.put(frame).interface()), table, library.stream)
    given = library.put(frame).interface()
    waits = ("cudaStreamSynchronize", "cudaEventSynchronize")
    before = [fake.calls[name] for name in waits]
    there = labeller.label_on_device(_foreign(given), table, library.stream)
    address = there.confidence.__cuda_array_interface__["data"][0]
    assert [fake.calls[name] for name in waits] == before
    # Nothing was computed yet: it is all on the streams.
    assert (fake.must_view(address, 60 * 80) == POISON).all()
    ids, confidence = _maps(library, there)
    np.testing.assert_array_equal(ids, wanted.label_map)
    np.testing.assert_array_equal(confidence, wanted.confidence)
    assert ids.dtype == wanted.label_map.dtype


def test_the_interface_tells_the_caller_s_stream(
    labeller: DeviceLabeller, library: FakeLibrary, host: PixelHost
) -> None:
    frame, table = noise(60, 80), random_table(4)
    there = labeller.label_on_device(frame, table, library.stream)
    told = there.label_map.__cuda_array_interface__
    assert told["stream"] == library.stream and told["version"] == 3 and told["strides"] is None
    assert (told["shape"], told["typestr"]) == ((60, 80), "|u1")
    found = library.read_at(told["data"][0], told["shape"], np.uint8, there)
    library.finish()
    np.testing.assert_array_equal(found[0], host_labels(host, frame, table, SPEC).label_map)


def test_the_caller_may_write_to_the_frame_again_at_once(
    labeller: DeviceLabeller, library: FakeLibrary, host: PixelHost
) -> None:
    frame, table = noise(60, 80), random_table(4)
    block = library.put(frame)
    for given in (block.interface(), block.interface(stream=None)):
        block.overwrite(frame)
        there = labeller.label_on_device(_foreign(given, stream=library.stream), table, 1)
        block.overwrite(np.uint8(7))
        library.finish()  # the writing, and no more than it waits for
        check_same(there.to_host(), host_labels(host, frame, table, SPEC))


def test_memory_is_used_again_behind_its_readers(
    labeller: DeviceLabeller, library: FakeLibrary, host: PixelHost, fake: FakeCuda, opened: Opened
) -> None:
    table = random_table(4)
    frame = noise(60, 80)
    wanted = host_labels(host, frame, table, SPEC)
    there: Any = labeller.label_on_device(frame, table, 1)
    found = library.read(there.label_map)
    address = there.label_map.__cuda_array_interface__["data"][0]
    del there
    made = fake.calls["cudaMalloc"]
    later = 0
    for seed in range(1, 2 * MOST_LENT):
        kept = labeller.label_on_device(noise(60, 80, seed), table, 1)
        later += kept.label_map.__cuda_array_interface__["data"][0] == address
        opened.engines[0].stream.synchronize()
    assert later == 1 and fake.calls["cudaMalloc"] == made + MOST_LENT - 1
    np.testing.assert_array_equal(found[0], wanted.label_map)


def test_memory_that_cannot_be_waited_for_is_not_lost_to_the_pool(
    labeller: DeviceLabeller, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(memory: DeviceMemory, writer: Stream) -> None:
        raise EngineError("CUDA refused a call (cudaErrorInvalidResourceHandle)")

    table = random_table(4)
    for seed in range(MOST_LENT):
        labeller.label_on_device(noise(60, 80, seed), table, 1)
    with monkeypatch.context() as patch:
        patch.setattr(DeviceMemory, "enter", refuse)
        with pytest.raises(EngineError, match="cudaErrorInvalidResourceHandle"):
            labeller.label_on_device(noise(60, 80), table, 1)
    held = [labeller.label_on_device(noise(60, 80), table, 1) for _ in range(MOST_LENT)]
    assert len(held) == MOST_LENT


def test_what_others_made_of_a_result_keeps_it(
    labeller: DeviceLabeller, library: FakeLibrary, host: PixelHost, opened: Opened, fake: FakeCuda
) -> None:
    from dedos_deploy import _native

    frame, table = noise(60, 80), random_table(4)
    there: Any = labeller.label_on_device(frame, table, library.stream)
    capsule = there.label_map.__dlpack__(stream=library.stream)
    del there
    for seed in range(1, 2 * MOST_LENT):
        labeller.label_on_device(noise(60, 80, seed), table, library.stream)
    address, shape, *_, held = _native.dlpack_take(capsule)
    del capsule
    labeller.close()
    opened.engines[0].close()
    gc.collect()
    blocks = fake.live
    found = library.read_at(address, shape, np.uint8, None)
    library.finish()
    np.testing.assert_array_equal(found[0], host_labels(host, frame, table, SPEC).label_map)
    assert blocks["device"] == 1
    del held
    # The library's own stream.
    assert fake.live == {"stream": 1}


def test_no_more_results_are_held_than_there_is_memory_for(
    labeller: DeviceLabeller, fake: FakeCuda
) -> None:
    frame, table = noise(60, 80), random_table(4)
    held = [labeller.label_on_device(frame, table, 1) for _ in range(MOST_LENT)]
    with pytest.raises(BadInputError, match=r"8 results lie on the GPU.*or ask for result='host'"):
        labeller.label_on_device(frame, table, 1)
    labeller.label(frame, table)
    del held[3]
    made = fake.calls["cudaMalloc"]
    held.append(labeller.label_on_device(frame, table, 1))
    assert fake.calls["cudaMalloc"] == made


def test_a_stream_that_is_gone_costs_its_memory(
    labeller: DeviceLabeller, library: FakeLibrary, fake: FakeCuda, host: PixelHost
) -> None:
    frame, table = noise(60, 80), random_table(4)
    stream = FakeLibrary(fake).stream
    there: Any = labeller.label_on_device(frame, table, stream)
    fake.runtime.cudaStreamDestroy(stream)
    made = fake.calls["cudaFree"]
    del there
    assert fake.calls["cudaFree"] == made + 1
    check_same(
        labeller.label_on_device(frame, table, 1).to_host(), host_labels(host, frame, table, SPEC)
    )


def test_larger_frames_and_other_words_between(labeller: DeviceLabeller, host: PixelHost) -> None:
    pairs = [
        (noise(20, 30), random_table(4)),
        (noise(60, 80), random_table(30, 3, 300)),
        (noise(9, 9), random_table(7, 2)),
    ]
    there = [labeller.label_on_device(*pair, 1) for pair in pairs * 2]
    for result, pair in zip(there, pairs * 2, strict=True):
        wanted = host_labels(host, *pair, SPEC)
        found = result.to_host()
        check_same(found, wanted)
        counts, latency_ms = result.tally()
        np.testing.assert_array_equal(counts, wanted.counts)
        assert set(latency_ms) == {"pre", "engine", "post"} == set(found.latency_ms)


def test_counts_alone_copy_no_maps_and_times_have_the_way_up(
    labeller: DeviceLabeller, fake: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(result_pool, "MOST_BYTES", 0)
    fake.durations.update({"upload": 500, "dedos_resize": 200})
    frame, table = noise(60, 80), random_table(4)
    there = labeller.label_on_device(frame, table, 1)
    held = [labeller.label(frame, table) for _ in range(result_pool.LEAST_LENT)]
    counts, latency_ms = there.tally()
    np.testing.assert_array_equal(counts, held[0].counts)
    assert 700 <= latency_ms["pre"] < 1700
    assert labeller.facts() == {"results_copied": 0}
    there.to_host()
    assert labeller.facts() == {"results_copied": 1}


def test_broken_scores_show_with_the_first_wait(opened: Opened) -> None:
    engine = opened(poison=True)
    labeller = DeviceLabeller(engine, engine.cuda.kernels(b"a fat binary"))
    there = labeller.label_on_device(noise(60, 80), random_table(4), 1)
    for wait in (there.tally, there.to_host):
        with pytest.raises(EngineError, match="slot 1 is not finite at row 2, column 3"):
            wait()
    labeller.close()


def test_a_frame_is_held_until_it_was_read(
    labeller: DeviceLabeller, library: FakeLibrary, opened: Opened, fake: FakeCuda
) -> None:
    block, table = library.put(noise(60, 80)), random_table(4)
    given: Any = block.dlpack()
    gone = weakref.finalize(given, fake.release, block.address, "device")
    there = labeller.label_on_device(_foreign(given), table, 1)
    del given, there
    gc.collect()
    assert gone.alive
    other = library.put(noise(60, 80)).interface()
    for _ in range(MOST_LENT + 1):
        labeller.label_on_device(_foreign(other), table, 1)
        assert fake.last_error == 0  # or torch would raise it
    gc.collect()
    assert not gone.alive
    opened.engines[0].stream.synchronize()  # nobody read what was freed


def test_a_frame_is_let_go_of_once_it_was_read(
    labeller: DeviceLabeller, library: FakeLibrary, opened: Opened
) -> None:
    table, other = random_table(4), library.put(noise(60, 80)).interface()
    for wait in ("next frame", "result", "host"):
        given: Any = library.put(noise(60, 80)).dlpack()
        gone = weakref.finalize(given, int)
        if wait == "host":
            labeller.label(_foreign(given), table)
        else:
            there = labeller.label_on_device(_foreign(given), table, 1)
        if wait == "next frame":
            opened.engines[0].stream.synchronize()
            labeller.label_on_device(_foreign(other), table, 1)
        elif wait == "result":
            there.tally()
        del given
        gc.collect()
        assert not gone.alive, wait


def test_a_result_refuses_what_it_cannot_do(labeller: DeviceLabeller) -> None:
    there = labeller.label_on_device(noise(60, 80), random_table(4), 1)
    assert there.label_map.__dlpack_device__() == (2, 0)
    assert repr(there.label_map) == "DeviceImage(60x80 uint8, GPU 0)"
    for options in ({"copy": True}, {"dl_device": (1, 0)}):
        with pytest.raises(BufferError, match=r"given where it lies; copy it, or use to_host\(\)"):
            there.label_map.__dlpack__(**options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="1 is the default stream"):
        there.label_map.__dlpack__(stream=0)
    there.label_map.__dlpack__(stream=-1)


# The whole way


@pytest.fixture
def segmenter(
    opened: Opened, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> Iterator[Segmenter]:
    (tmp_path / "kernels.fatbin").write_bytes(b"a fat binary")
    where = "dedos_deploy.runtime.gpu.tensorrt_engine.kernels_file"
    monkeypatch.setattr(where, lambda: tmp_path / "kernels.fatbin")
    rows = np.eye(SPEC.text_width, dtype=np.float32)

    def encode(asked: Any, **_: object) -> NDArray[np.float32]:
        return np.stack([rows[("blue", "green", "red").index(word)] for word in asked])

    made = Segmenter(opened(), encode, classes="blue,red", thresholds=Thresholds({}, 0.0))
    yield made
    made.close()


def test_a_segmenter_on_the_device(segmenter: Segmenter, library: FakeLibrary) -> None:
    frame = np.zeros((50, 60, 3), np.uint8)
    frame[:, :30, 0] = 255
    frame[:, 30:, 2] = 200
    wanted = segmenter.segment(frame, timestamp_s=3.0)
    given = library.put(frame[:, :, ::-1].copy()).dlpack()
    stream = SimpleNamespace(__cuda_stream__=lambda: (0, library.stream))
    found = segmenter.segment(given, order="rgb", result="device", stream=stream, timestamp_s=3.0)
    assert isinstance(found, DeviceSegmentation) and found.timestamp_s == 3.0
    assert repr(found) == "DeviceSegmentation(50x60 uint8, 2 classes, version 1)"
    ids = library.read(found.label_map)
    library.finish()
    np.testing.assert_array_equal(ids[0], wanted.label_map)
    segmenter.set_classes("green")
    there = found.to_host()
    np.testing.assert_array_equal(there.label_map, wanted.label_map)
    assert there.coverage == wanted.coverage and there.classes == found.classes
    np.testing.assert_array_equal(found.counts, wanted.counts)
    found.synchronize()
    assert set(found.latency_ms) == {"pre", "engine", "post"}


def test_streams_and_results_that_mean_nothing(segmenter: Segmenter) -> None:
    frame = np.zeros((50, 60, 3), np.uint8)
    with pytest.raises(BadInputError, match="result 'gpu' is unknown; it is host or device"):
        segmenter.segment(frame, result="gpu")  # type: ignore[call-overload]
    with pytest.raises(BadInputError, match="frame and result are on the host; leave it out"):
        segmenter.segment(frame, stream=7)
    with pytest.raises(BadInputError, match="a stream must be its handle.*not 'mine'"):
        segmenter.segment(frame, result="device", stream="mine")
