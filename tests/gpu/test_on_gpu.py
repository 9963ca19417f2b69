"""The same promises on a real GPU: kernels, graphs, engines, memory, and 1000 class changes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pixel_host import PixelHost
from scores_engine import ScoresEngine, some_table
from tiny_bundle import stripes, write_tiny_bundle

from dedos_deploy.bundle import Bundle
from dedos_deploy.errors import EngineError
from dedos_deploy.runtime import EngineOptions, Nv12Frame, Segmenter, open_engine
from dedos_deploy.runtime.frame import resize_frame
from dedos_deploy.runtime.gpu.cuda import Cuda
from dedos_deploy.runtime.gpu.device_labeller import DeviceLabeller
from dedos_deploy.runtime.gpu.flavours import FLAVOURS
from dedos_deploy.runtime.gpu.kernels_file import kernels_file
from dedos_deploy.runtime.labelling import HostLabeller
from dedos_deploy.runtime.pixels import check_pixels

pytestmark = pytest.mark.gpu


@pytest.fixture
def cuda() -> Cuda:
    return Cuda.open()


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DEDOS_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def _need_kernels() -> Path:
    found = kernels_file()
    if found is None:
        pytest.skip("this installation was built without nvcc")
    return found


def _labeller_on(engine: Any) -> DeviceLabeller:
    return DeviceLabeller(engine, engine.cuda.kernels(_need_kernels().read_bytes()))


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("names", [12, 254, 300])
@pytest.mark.parametrize("slots", [1, 40, 171])
@pytest.mark.parametrize("size", [(37, 53), (480, 640), (1080, 1920)])
def test_label_maps_equal_those_of_the_cpu(
    cuda: Cuda, dtype: Any, names: int, slots: int, size: tuple[int, int]
) -> None:
    rng = np.random.default_rng(1)
    coarse = rng.random((slots, 9, 12), np.float32)
    planes = [cv2.resize(plane, (48, 36), interpolation=cv2.INTER_LINEAR) for plane in coarse]
    scores = np.stack(planes).astype(dtype)
    engine = ScoresEngine(cuda, scores, (144, 192))
    labeller = _labeller_on(engine)
    frame, table = rng.integers(0, 256, (*size, 3), np.uint8), some_table(slots, names)
    found = labeller.label(frame, table)
    wanted = HostLabeller(engine.spec, engine.infer, threads=2).label(frame, table)
    np.testing.assert_array_equal(found.label_map, wanted.label_map)
    np.testing.assert_array_equal(found.confidence, wanted.confidence)
    np.testing.assert_array_equal(found.counts, wanted.counts)
    labeller.close()
    engine.close()


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_scores_that_explain_labels_come_along(cuda: Cuda, dtype: Any) -> None:
    scores = np.random.default_rng(0).random((40, 36, 48)).astype(dtype)
    engine = ScoresEngine(cuda, scores, (144, 192))
    labeller, table = _labeller_on(engine), some_table(40, 12)
    frame = np.random.default_rng(1).integers(0, 256, (90, 120, 3), np.uint8)
    assert labeller.label(frame, table).scores is None
    under_way = [labeller.submit(frame, table, explain=True) for _ in range(2)]
    for pending in under_way:
        np.testing.assert_array_equal(pending.result().scores, scores)
    labeller.close()
    engine.close()


@pytest.mark.parametrize("size", [(720, 1280), (100, 90), (144, 192), (200, 150)])
def test_resized_frames_equal_the_cpu_s(cuda: Cuda, host: PixelHost, size: tuple[int, int]) -> None:
    engine = ScoresEngine(cuda, np.zeros((2, 36, 48), np.float32), (144, 192))
    labeller = _labeller_on(engine)
    frame = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    labeller.label(frame, some_table(2, 3))
    back = cuda.pinned((144, 192, 3), np.uint8, "an image")
    cuda.download(back.array, engine.image.pointer, engine.stream)
    engine.stream.synchronize()
    np.testing.assert_array_equal(back.array, host.resize(frame, (144, 192)))
    back.close()
    labeller.close()
    engine.close()


@pytest.mark.parametrize("kind", ["bgr", "rgb", "planar", "nv12"])
@pytest.mark.parametrize("names", [12, 300])
def test_torch_gives_and_takes_on_its_own_stream(cuda: Cuda, kind: str, names: int) -> None:
    """Frames written by kernels that are not done yet, and results read without a wait."""
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this torch has no CUDA")
    rng = np.random.default_rng(0)
    planes = [cv2.resize(rng.random((9, 12), np.float32), (48, 36)) for _ in range(40)]
    engine = ScoresEngine(cuda, np.stack(planes), (144, 192))
    labeller, table = _labeller_on(engine), some_table(40, names)
    frame = rng.integers(0, 256, (480, 640, 3), np.uint8)
    rows = rng.integers(0, 256, (720, 640), np.uint8)
    pixels: Any = Nv12Frame.from_rows(rows) if kind == "nv12" else frame
    wanted = HostLabeller(engine.spec, engine.infer, threads=2).label(pixels, table)
    stream, busy = torch.cuda.Stream(), torch.zeros((4096, 4096), device="cuda")
    with torch.cuda.stream(stream):
        for _ in range(20):
            busy = busy @ busy  # so that what follows is late
        if kind == "nv12":
            there = torch.from_numpy(rows).cuda()
            given: Any = Nv12Frame(there[:480], there[480:].view(240, 320, 2))
        else:
            there = torch.from_numpy(frame[:, :, ::-1].copy() if kind == "rgb" else frame).cuda()
            planar = there.permute(2, 0, 1).contiguous().permute(1, 2, 0)
            given = planar if kind == "planar" else there
        foreign = check_pixels(given, "rgb" if kind == "rgb" else "bgr", stream.cuda_stream)
        result = labeller.label_on_device(foreign, table, stream.cuda_stream)
        there.fill_(7)
        ids, sure = torch.from_dlpack(result.label_map), torch.from_dlpack(result.confidence)
        found = ids.to(torch.int32).cpu().numpy(), sure.cpu().numpy()
    np.testing.assert_array_equal(found[0], wanted.label_map)
    np.testing.assert_array_equal(found[1], wanted.confidence)
    np.testing.assert_array_equal(result.tally()[0], wanted.counts)
    back = cuda.pinned((144, 192, 3), np.uint8, "an image")
    cuda.download(back.array, engine.image.pointer, engine.stream)
    engine.stream.synchronize()
    bgr = pixels.frame_bgr if kind == "nv12" else frame
    small = np.empty((144, 192, 3), np.uint8)
    resize_frame(bgr, small)
    assert np.abs(back.array.astype(int) - small).max() <= 1
    del ids, sure, result
    back.close()
    labeller.close()
    engine.close()


def test_a_score_that_is_no_number_is_found(cuda: Cuda) -> None:
    scores = np.zeros((3, 36, 48), np.float32)
    scores[2, 5, 7] = np.inf
    scores[1, 20, 3] = np.nan
    engine = ScoresEngine(cuda, scores, (144, 192))
    labeller = _labeller_on(engine)
    with pytest.raises(EngineError, match="slot 1 is not finite at row 20, column 3"):
        labeller.label(np.zeros((60, 80, 3), np.uint8), some_table(3, 3))
    labeller.close()
    engine.close()


def test_memory_comes_back(cuda: Cuda) -> None:
    free, _ = cuda.free_memory()
    blocks = [cuda.allocate(2**26, "a test") for _ in range(4)]
    assert cuda.free_memory()[0] <= free - 4 * 2**26 + 2**24
    for block in blocks:
        block.close()
    assert cuda.free_memory()[0] >= free - 2**24
    with pytest.raises(EngineError, match=r"no room for a test: \d+ MiB are needed and \d+ MiB"):
        cuda.allocate(2**50, "a test")
    cuda.allocate(16, "a test").close()


def test_graphs_replay(cuda: Cuda) -> None:
    stream = cuda.stream()
    block, host = cuda.allocate(64, "a test"), cuda.pinned((64,), np.uint8, "a test")

    def work() -> None:
        cuda.upload(block.pointer, host.array, stream)
        cuda.fill(block.pointer, 7, 16, stream)
        cuda.download(host.array, block.pointer, stream)

    host.array[:] = 3
    graph = cuda.capture(stream, work)
    assert (host.array == 3).all()
    for _ in range(2):
        graph.launch(stream)
        stream.synchronize()
        assert (host.array[:16] == 7).all() and (host.array[16:] == 3).all()
        host.array[:16] = 3
    for item in (graph, host, block, stream):
        item.close()


@pytest.fixture(params=["cuda", "trt", "rtx"])
def engine_name(request: pytest.FixtureRequest) -> Iterator[str]:
    name: str = request.param
    if name == "cuda":
        import onnxruntime

        if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            pytest.skip("this ONNX Runtime has no CUDA")
    else:
        flavour = FLAVOURS[name]
        pytest.importorskip(flavour.module, reason=f"needs pip install 'dedos-deploy[{name}]'")
        if name == "rtx" and Cuda.open().device.capability[0] in (9, 10):
            pytest.skip("TensorRT for RTX does not build for data-centre GPUs")
    return name


@pytest.fixture
def typed_bundle(tmp_path: Path) -> Path:
    return write_tiny_bundle(tmp_path / "bundle", target="trt")


def test_an_engine_scores_as_onnx_runtime_does(engine_name: str, typed_bundle: Path) -> None:
    rng = np.random.default_rng(0)
    with (
        Bundle.open(typed_bundle) as bundle,
        open_engine(bundle, engine_name) as engine,
        open_engine(bundle, "cpu") as reference,
    ):
        spec = bundle.spec
        for slots in (1, 16, 17, 100, 256, 3):
            inputs = {
                "image": rng.integers(0, 256, (1, spec.height, spec.width, 3), np.uint8),
                "text": rng.uniform(0, 0.5, (slots, spec.text_width)).astype(np.float32),
                "valid": (rng.random(slots) > 0.2).astype(np.float32),
            }
            wanted = reference.infer(inputs)["scores"]
            np.testing.assert_allclose(engine.infer(inputs)["scores"], wanted, atol=2e-3)


def test_a_thousand_class_changes(engine_name: str, typed_bundle: Path, cuda: Cuda) -> None:
    names = ["red,green,blue", "green", "blue,table,chair,red", "red,lamp,shelf,door,window"]
    frame = stripes(480, 640)
    with Segmenter.load(
        typed_bundle, classes=names[0], engine=engine_name, background="none"
    ) as segmenter:
        for change in range(8):
            segmenter.set_classes(names[change % 4])
            segmenter.segment(frame)
        before = cuda.free_memory()[0]
        for change in range(1000):
            segmenter.set_classes(names[change % 4])
            result = segmenter.segment(frame)
            if change % 4 == 0:
                ids = {name: result.classes.index(name) for name in ("blue", "green", "red")}
                middle = [int(result.label_map[240, x]) for x in (100, 320, 540)]
                assert middle == [ids["blue"], ids["green"], ids["red"]]
        assert abs(cuda.free_memory()[0] - before) < 2**22


def test_engine_options_name_a_gpu_that_is_not_there(typed_bundle: Path, engine_name: str) -> None:
    from dedos_deploy.errors import DedosError

    with Bundle.open(typed_bundle) as bundle, pytest.raises(DedosError):
        open_engine(bundle, engine_name, EngineOptions(gpu=99))
