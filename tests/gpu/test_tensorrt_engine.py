"""The TensorRT engine against strict stand-ins of CUDA and TensorRT: order, padding, graphs, faults."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_cuda import FakeCuda, Status
from fake_tensorrt import reference_scores, serialized
from gpu_engines import SPEC, Opened
from numpy.typing import NDArray

from dedos_deploy.errors import BadInputError, EngineError
from dedos_deploy.progress import Progress
from dedos_deploy.runtime.gpu.cuda import Cuda
from dedos_deploy.runtime.gpu.cuda_calls import DeviceLostError
from dedos_deploy.spec import GraphSpec


def _inputs(slots: int, seed: int = 0, spec: GraphSpec = SPEC) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (spec.batch, spec.height, spec.width, 3), np.uint8)
    text = rng.normal(size=(slots, spec.text_width)).astype(np.float32)
    text /= np.linalg.norm(text, axis=1, keepdims=True)
    return {"image": image, "text": text, "valid": np.ones(slots, np.float32)}


def _expected(inputs: dict[str, NDArray[Any]], dtype: str = "float32") -> NDArray[Any]:
    return reference_scores(**inputs, dtype=np.dtype(dtype))


@pytest.mark.parametrize("rtx", [False, True])
@pytest.mark.parametrize("slots", [1, 3, 16, 17, 64, 65, 171, 256])
def test_scores_of_any_number_of_words(opened: Opened, slots: int, rtx: bool) -> None:
    engine = opened(rtx=rtx)
    for seed in range(2):
        inputs = _inputs(slots, seed)
        scores = engine.infer(inputs)["scores"]
        assert scores.shape == (1, slots, 8, 12)
        np.testing.assert_array_equal(scores, _expected(inputs))


def test_buckets_follow_the_vocabulary_and_are_set_up_once(opened: Opened, fake: FakeCuda) -> None:
    engine = opened()
    assert len(opened.module.contexts) == 3
    assert engine.graphs == {16: "captured", 256: "captured", 64: "captured"}
    assert fake.calls["cudaGraphInstantiate"] == 3
    runs = [context.runs for context in opened.module.contexts]
    for slots in (3, 100, 5, 16, 40, 200, 2):
        inputs = _inputs(slots, slots)
        np.testing.assert_array_equal(engine.infer(inputs)["scores"], _expected(inputs))
    assert len(opened.module.contexts) == 3 and fake.calls["cudaGraphInstantiate"] == 3
    # Frames launch graphs; a context runs only while it is made ready.
    assert [context.runs for context in opened.module.contexts] == runs


def test_it_says_which_bucket_is_made_ready(opened: Opened) -> None:
    notes: list[str] = []

    class Told(Progress):
        def note(self, text: str) -> None:
            notes.append(text)

    opened(on_progress=Told())
    assert notes == [
        "making K=16 ready, 1 of 3",
        "making K=64 ready, 2 of 3",
        "making K=256 ready, 3 of 3",
    ]


def test_an_interrupt_while_buckets_are_made_ready_leaves_nothing(
    opened: Opened, fake: FakeCuda
) -> None:
    class Interrupted(Progress):
        def note(self, text: str) -> None:
            if "K=256" in text:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        opened(on_progress=Interrupted())
    assert fake.live == {}


def test_a_thousand_class_changes_allocate_nothing(opened: Opened, fake: FakeCuda) -> None:
    engine = opened()
    engine.infer(_inputs(3))
    before = {name: fake.calls[name] for name in ("cudaMalloc", "cudaHostAlloc")}
    live = fake.live
    for change in range(1000):
        engine.infer(_inputs(1 + change * 7 % 256, change))
    assert {name: fake.calls[name] for name in before} == before
    assert fake.live == live and len(opened.module.contexts) == 3


def test_half_scores_and_batches(opened: Opened) -> None:
    spec = GraphSpec(16, 24, 8, batch=3, score_dtype="float16")
    engine = opened(spec)
    inputs = _inputs(20, spec=spec)
    scores = engine.infer(inputs)["scores"]
    assert scores.shape == (3, 20, 4, 6) and scores.dtype == np.float16
    np.testing.assert_array_equal(scores, _expected(inputs, "float16"))


def test_without_capture_kernels_are_launched_one_by_one_and_it_is_said(
    opened: Opened, caplog: pytest.LogCaptureFixture
) -> None:
    engine = opened(rtx=True, capturable=False)
    inputs = _inputs(5)
    np.testing.assert_array_equal(engine.infer(inputs)["scores"], _expected(inputs))
    why = "launched one by one: the library cannot capture this engine"
    assert engine.graphs == {16: why, 64: why, 256: why}
    assert "no CUDA graph for K=16" in caplog.text
    assert engine.facts()["cuda_graphs"] == engine.graphs
    free, total = engine.cuda.free_memory()
    assert engine.device_memory() == total - free > 0


@pytest.mark.parametrize("call", ["cudaGraphInstantiate", "cudaGraphLaunch"])
def test_a_capture_that_fails_falls_back(opened: Opened, fake: FakeCuda, call: str) -> None:
    fake.faults[call] = Status.cudaErrorStreamCaptureInvalidated
    engine = opened()
    inputs = _inputs(5)
    np.testing.assert_array_equal(engine.infer(inputs)["scores"], _expected(inputs))
    assert "cudaErrorStreamCaptureInvalidated" in engine.graphs[16]
    assert fake.live["graph"] == 2
    np.testing.assert_array_equal(engine.infer(inputs)["scores"], _expected(inputs))


def test_what_the_device_compiled_is_kept(opened: Opened, tmp_path: Path) -> None:
    cache = tmp_path / "sub" / "rtx.cache"
    first = opened(rtx=True, runtime_cache=cache)
    first.infer(_inputs(5))
    assert opened.module.compiled == 3
    first.close()
    second = opened(rtx=True, runtime_cache=cache)
    second.infer(_inputs(50))
    assert opened.module.compiled == 0
    cache.write_bytes(b"\xff damaged")
    opened(rtx=True, runtime_cache=cache)
    assert opened.module.compiled == 3
    assert cache.read_bytes() == b'["K=16", "K=256", "K=64"]'


def test_everything_is_released(opened: Opened, fake: FakeCuda) -> None:
    engine = opened()
    for slots in (3, 200):
        engine.infer(_inputs(slots))
    engine.close()
    assert fake.live == {}
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.infer(_inputs(3))


def test_inputs_are_checked(opened: Opened) -> None:
    engine = opened()
    with pytest.raises(BadInputError, match="1 to 256 text slots, not 257"):
        engine.infer(_inputs(257))
    with pytest.raises(BadInputError, match="'image' must be uint8"):
        engine.infer(_inputs(3) | {"image": np.zeros((1, 32, 48, 3), np.float32)})


# Faults


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sm": "8.7"}, r"cannot load the engine on Fake GPU .*8\.9.*engine is for 8\.7; delete"),
        ({"profiles": [16, 64]}, "has 2 profiles, 3 are needed"),
        ({"text_width": 9}, r"'text' of the engine is float32 \[-1, 9\].*promises .*\['K', 8\]"),
        ({"score_dtype": "float16"}, "'scores' of the engine is float16"),
    ],
)
def test_engines_of_something_else_are_refused(
    opened: Opened, fake: FakeCuda, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(EngineError, match=message):
        opened(**changes)
    assert fake.live == {}


@pytest.mark.parametrize("keep", [0, 3, 50])
def test_a_truncated_engine_is_refused(opened: Opened, fake: FakeCuda, keep: int) -> None:
    with pytest.raises(EngineError, match="cannot load the engine .*header.size.*run again"):
        opened(content=serialized(SPEC)[:keep])
    assert fake.live == {}


def test_too_little_memory_says_how_much_is_needed(opened: Opened, fake: FakeCuda) -> None:
    fake.memory = 20_000
    with pytest.raises(
        EngineError, match=r"no room for the engine's tensor '\w+': 0 MiB are needed and 0 MiB are"
    ):
        opened()
    assert fake.live == {}
    fake.memory = 2**30
    fake.faults["cudaHostAlloc"] = Status.cudaErrorMemoryAllocation
    with pytest.raises(
        EngineError,
        match="this machine has no room for the host side of tensor 'text' in page-locked",
    ):
        opened()
    assert fake.live == {}


def test_a_lost_device_is_lost_for_good(opened: Opened, fake: FakeCuda) -> None:
    engine = opened()
    engine.infer(_inputs(3))
    fake.sticky = Status.cudaErrorIllegalAddress
    with pytest.raises(DeviceLostError, match="stopped working .*cudaErrorIllegalAddress.*again"):
        engine.infer(_inputs(3))
    fake.sticky = Status.cudaSuccess
    with pytest.raises(DeviceLostError, match="lost by an earlier frame"):
        engine.infer(_inputs(3))
    fake.sticky = Status.cudaErrorIllegalAddress
    engine.close()  # no error: nothing can be released any more


def test_a_run_that_tensorrt_refuses_is_one_frame_lost(opened: Opened, fake: FakeCuda) -> None:
    engine = opened(capturable=False)
    inputs = _inputs(3)
    engine.infer(inputs)
    context = opened.module.contexts[0]
    address = context.addresses.pop("scores")
    with pytest.raises(EngineError, match="refused a run of the engine: .*addresses are missing"):
        engine.infer(inputs)
    context.addresses["scores"] = address
    np.testing.assert_array_equal(engine.infer(inputs)["scores"], _expected(inputs))


def test_a_second_thread_is_told(opened: Opened) -> None:
    engine = opened()
    entered, leave, errors = threading.Event(), threading.Event(), []

    def hold() -> None:
        with engine.exclusive():
            entered.set()
            leave.wait(10)

    holder = threading.Thread(target=hold)
    holder.start()
    assert entered.wait(10)
    try:
        engine.infer(_inputs(3))
    except EngineError as error:
        errors.append(str(error))
    leave.set()
    holder.join(10)
    assert errors == [
        "the engine is labelling a frame on another thread; open one engine per thread"
    ]
    engine.infer(_inputs(3))


def test_machines_without_a_gpu(fake: FakeCuda) -> None:
    fake.devices = 0
    with pytest.raises(EngineError, match="no usable NVIDIA GPU .cudaErrorNoDevice.*cpu engine"):
        Cuda(fake.runtime, fake.driver)
    fake.devices = 2
    with pytest.raises(BadInputError, match="no GPU number 2; this machine has 2"):
        Cuda(fake.runtime, fake.driver, 2)
    fake.faults["cudaGetDeviceCount"] = Status.cudaErrorInsufficientDriver
    with pytest.raises(EngineError, match="cudaErrorInsufficientDriver"):
        Cuda(fake.runtime, fake.driver)


def test_the_real_bindings_say_that_there_is_no_gpu_here() -> None:
    pytest.importorskip("cuda.bindings", reason="needs cuda-python")
    from dedos_deploy.runtime.gpu.bindings import bindings

    runtime, _ = bindings()
    if runtime.cudaGetDeviceCount()[0] == runtime.cudaError_t.cudaSuccess:
        pytest.skip("this machine has a GPU")
    with pytest.raises(EngineError, match="no usable NVIDIA GPU"):
        Cuda.open()
