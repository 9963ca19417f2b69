"""Engines of a device: found, built, kept, checked against ONNX Runtime, and refused."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from fake_cuda import FakeCuda
from fake_tensorrt import fake_module, serialized
from tiny_bundle import BASE_WORDS, embeddings, image_graph, tiny_spec, write_tiny_bundle

from dedos_deploy.bundle import Bundle
from dedos_deploy.errors import BadInputError, EngineError, ParityError
from dedos_deploy.progress import Progress
from dedos_deploy.runtime.gpu import engine_store, kept_verdict
from dedos_deploy.runtime.gpu.build import build_engine
from dedos_deploy.runtime.gpu.cuda import Cuda
from dedos_deploy.runtime.gpu.engine_key import EngineKey, l4t_release
from dedos_deploy.runtime.gpu.engine_store import EngineStore, default_engine_folder
from dedos_deploy.runtime.gpu.flavours import FLAVOURS, TENSORRT, known_problems
from dedos_deploy.runtime.gpu.memory import available_bytes, build_memory
from dedos_deploy.spec import SLOT_BUCKETS


class Shop(Progress):
    """Stores of one bundle, cache folder and fake GPU; their engines are closed at the end."""

    def __init__(self, fake: FakeCuda, folder: Path, bundle: Path) -> None:
        self.fake, self.folder, self.path = fake, folder, bundle
        self.modules = {"trt": fake_module(fake), "rtx": fake_module(fake, rtx=True)}
        self.notes: list[str] = []
        self.opened: list[Any] = []

    def store(self, target: str = "trt", bundle: Path | None = None) -> EngineStore:
        opened = Bundle.open(bundle or self.path)
        self.opened.append(opened)
        return EngineStore(
            opened,
            target,
            trt=self.modules[target],
            folder=self.folder,
            cuda=Cuda(self.fake.runtime, self.fake.driver),
            on_progress=self,
        )

    def note(self, text: str) -> None:
        self.notes.append(text)

    def open(self, target: str = "trt", bundle: Path | None = None) -> Any:
        engine = self.store(target, bundle).open()
        self.opened.append(engine)
        return engine

    def files(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir()) if self.folder.exists() else []


@pytest.fixture
def shop(fake: FakeCuda, tmp_path: Path) -> Iterator[Shop]:
    bundle = write_tiny_bundle(tmp_path / "bundle", target="trt")
    made = Shop(fake, tmp_path / "cache" / "engines", bundle)
    yield made
    for item in reversed(made.opened):
        item.close()


def _scores(engine: Any) -> Any:
    spec = tiny_spec()
    image = np.random.default_rng(0).integers(0, 256, (1, spec.height, spec.width, 3), np.uint8)
    rows = embeddings()
    inputs = {"image": image, "text": rows, "valid": np.ones(len(BASE_WORDS), np.float32)}
    return engine.infer(inputs)["scores"]


@pytest.mark.parametrize("target", ["trt", "rtx"])
def test_the_first_run_builds_checks_and_keeps(shop: Shop, target: str) -> None:
    first = _scores(shop.open(target))
    assert {
        "profile K=16",
        "profile K=64",
        "profile K=256",
        "loading the engine",
        "comparing the engine with ONNX Runtime",
    } <= set(shop.notes)
    assert len(shop.modules[target].builds) == 1
    kinds = sorted(Path(name).suffix for name in shop.files())
    more = [".cache"] if target == "trt" else [".rtxcache"]
    assert kinds == sorted([".engine", ".json", ".json", *more])
    shop.notes.clear()
    np.testing.assert_array_equal(_scores(shop.open(target)), first)
    assert len(shop.modules[target].builds) == 1
    ready = [f"making K={slots} ready, {n} of 3" for n, slots in enumerate(SLOT_BUCKETS, start=1)]
    assert shop.notes == ["loading the engine", *ready]


def test_a_timing_cache_serves_the_next_build(shop: Shop) -> None:
    shop.open()
    for path in shop.folder.glob("*.engine"):
        path.unlink()
    shop.open()
    first, second = shop.modules["trt"].builds
    assert first.started_with == b"" and second.started_with == b"measured"


def test_the_engine_of_a_bundle_is_used(shop: Shop, tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "plain", target="rtx")
    with Bundle.open(bundle) as opened:
        sha = opened.manifest.files["model.onnx"]
    key = EngineKey(sha, "fp32", "tensorrt-rtx", "1.7.1", SLOT_BUCKETS, ("8.6", "8.9"))
    files = {
        f"engines/{key.name}.engine": serialized(tiny_spec()),
        f"engines/{key.name}.json": key.to_json().encode(),
    }
    shipped = write_tiny_bundle(tmp_path / "shipped", target="rtx", files=files)
    shop.open("rtx", shipped)
    assert shop.modules["rtx"].builds == []
    # Only what was found on this device lies in the cache.
    assert not any(name.endswith(".engine") for name in shop.files())


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"model_sha256": "b" * 64}, "built from another model.onnx"),
        ({"version": "1.6.0"}, "its version is 1.6.0, here it is 1.7.1"),
        ({"precision": "fp16"}, "its precision is fp16, here it is fp32"),
        ({"profiles": (16, 64)}, r"slot profiles are \[16, 64\]"),
        ({"compute_capabilities": ("8.6", "12.0")}, "runs on compute capability 8.6, 12.0, this"),
    ],
)
def test_an_engine_that_does_not_fit_is_explained_and_built_anew(
    shop: Shop, tmp_path: Path, change: dict[str, Any], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    with Bundle.open(shop.path) as opened:
        sha = opened.manifest.files["model.onnx"]
    values = {
        "model_sha256": sha,
        "precision": "fp32",
        "flavour": "tensorrt-rtx",
        "version": "1.7.1",
        "profiles": SLOT_BUCKETS,
        "compute_capabilities": ("8.9",),
        **change,
    }
    key = EngineKey(**values)
    files = {"engines/a.engine": b"never read", "engines/a.json": key.to_json().encode()}
    shipped = write_tiny_bundle(tmp_path / "shipped", target="rtx", files=files)
    with caplog.at_level(logging.INFO):
        shop.open("rtx", shipped)
    assert len(shop.modules["rtx"].builds) == 1
    assert re.search(why, caplog.text), caplog.text


def test_engines_of_other_devices_and_models_stand_side_by_side(
    shop: Shop, fake: FakeCuda, tmp_path: Path
) -> None:
    shop.open()
    fake.capability = (8, 6)
    with pytest.raises(EngineError, match="cannot load .* engine is for 8.9"):
        shop.open()  # the fake always builds for 8.9
    fake.capability = (8, 9)
    from tiny_bundle import image_graph

    other = write_tiny_bundle(tmp_path / "o", target="trt", model=image_graph(gain=0.5))
    shop.open(bundle=other)
    assert len([name for name in shop.files() if name.endswith(".engine")]) == 3


@pytest.mark.parametrize("damage", ["truncated", "flipped", "sidecar", "no engine"])
def test_a_damaged_cache_is_built_anew(
    shop: Shop, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    wanted = _scores(shop.open())
    engine = next(shop.folder.glob("*.engine"))
    content = engine.read_bytes()
    if damage == "truncated":
        engine.write_bytes(content[:-20])
    elif damage == "flipped":
        engine.write_bytes(content[:-1] + b"?")
    elif damage == "sidecar":
        engine.with_suffix(".json").write_text("{")
    else:
        engine.unlink()
    np.testing.assert_array_equal(_scores(shop.open()), wanted)
    assert len(shop.modules["trt"].builds) == 2 and "built anew" in caplog.text


def test_a_cached_engine_that_cannot_be_read_is_built_anew(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    wanted = _scores(shop.open())
    with monkeypatch.context() as patch:
        patch.setattr(engine_store, "sha256_of_file", refuse)
        np.testing.assert_array_equal(_scores(shop.open()), wanted)
    assert len(shop.modules["trt"].builds) == 2
    assert "is built anew: [Errno 13] Permission denied" in caplog.text


def test_an_engine_that_lies_is_never_used(shop: Shop) -> None:
    shop.modules["trt"].lies = True
    with pytest.raises(ParityError, match=r"is not used: .*% of pixels get the label of ONNX"):
        shop.open()
    # And not built again at the next start, only to be refused again.
    with pytest.raises(ParityError, match="--engine cpu .delete .*check.json"):
        shop.open()
    assert len(shop.modules["trt"].builds) == 1
    assert shop.notes.count("comparing the engine with ONNX Runtime") == 1
    next(shop.folder.glob("*.check.json")).unlink()
    with pytest.raises(ParityError):
        shop.open()
    assert shop.notes.count("comparing the engine with ONNX Runtime") == 2


def test_a_verdict_of_an_earlier_gate_does_not_count(shop: Shop) -> None:
    shop.open()
    path = next(shop.folder.glob("*.check.json"))
    verdict = json.loads(path.read_text())
    for earlier in ({"gate": verdict["gate"] - 1}, {}):
        kept = {name: value for name, value in verdict.items() if name != "gate"}
        path.write_text(json.dumps({**kept, **earlier}))
        shop.open()
    assert shop.notes.count("comparing the engine with ONNX Runtime") == 3
    assert json.loads(path.read_text()) == verdict


def test_the_gate_looks_at_the_frames_of_the_bundle(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, encoded = cv2.imencode(".jpg", np.full((20, 30, 3), 77, np.uint8))
    files = {"parity/1.jpg": bytes(encoded)}
    compared = []
    check = engine_store.check_on_device

    def noted(*arguments: Any, **more: Any) -> Any:
        compared.append([frame.shape for frame in more["frames"]])
        return check(*arguments, **more)

    monkeypatch.setattr(engine_store, "check_on_device", noted)
    shop.open(bundle=write_tiny_bundle(tmp_path / "framed", target="trt", files=files))
    assert compared == [[(20, 30, 3)]]


def test_another_driver_checks_again(shop: Shop, fake: FakeCuda) -> None:
    shop.open()
    fake.runtime.cudaDriverGetVersion = lambda: (0, 13010)
    shop.open()
    assert shop.notes.count("comparing the engine with ONNX Runtime") == 2


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_build_leaves_nothing(shop: Shop, error: type[BaseException]) -> None:
    def stop(text: str) -> None:
        if text == "profile K=64":
            raise error

    shop.note = stop  # type: ignore[method-assign]
    with pytest.raises(error):
        shop.open()
    assert shop.files() == []


def test_a_full_disk_costs_another_build(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(path: Path, data: bytes) -> None:
        raise OSError(28, os.strerror(28))

    for module in (engine_store, kept_verdict):
        monkeypatch.setattr(module, "write_atomically", refuse)
    shop.open()
    assert re.search("cannot be kept in .*No space left.*DEDOS_CACHE_DIR", caplog.text)
    assert shop.files() == []


def test_a_folder_that_cannot_be_made_costs_another_build(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    shop.folder = Path(os.devnull, "engines")
    shop.open()
    shop.open()
    assert caplog.text.count("cannot be kept in '/dev/null/engines' (Not a directory)") == 2
    assert len(shop.modules["trt"].builds) == 2


def test_graphs_of_onnx_runtime_are_refused(shop: Shop, tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "cpu")
    with pytest.raises(BadInputError, match="exported for 'cpu', .* again with --target trt"):
        shop.store("trt", bundle)


def test_little_memory_takes_the_frugal_recipe(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    model = shop.path / "model.onnx"
    memory = build_memory(model, None)
    monkeypatch.setattr(engine_store, "available_bytes", lambda: memory.wanted - 1)
    shop.fake.memory = 2**40
    shop.open()
    (config,) = shop.modules["trt"].builds
    assert config.limits == {"workspace": 256 * 2**20} and config.builder_optimization_level == 1
    assert "little memory is free: fewer tactics are tried" in shop.notes


@pytest.mark.parametrize(
    ("integrated", "free", "limit"),
    # A build of the tiny graph is predicted to take 2.5 GiB, 1 GiB of it workspace.
    [(False, 12, None), (True, 12, 5376), (True, 2.6, 1024), (True, 2.4, 256)],
)
def test_shared_memory_is_never_left_to_the_builder(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, integrated: bool, free: float, limit: int | None
) -> None:
    monkeypatch.setattr(engine_store, "available_bytes", lambda: int(free * 2**30))
    shop.fake.memory, shop.fake.integrated = 2**40, integrated
    shop.open()
    (config,) = shop.modules["trt"].builds
    found = config.limits.get("workspace")
    assert found == limit if limit is None else found == pytest.approx(limit * 2**20, rel=1e-3)


def test_far_too_little_memory_says_how_much(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_store, "available_bytes", lambda: 2**30)
    with pytest.raises(EngineError, match=r"takes about 1\.8 GiB and 1\.0 GiB are free; close"):
        shop.open()
    assert shop.files() == []


def test_memory_is_read_from_the_system(tmp_path: Path) -> None:
    info = tmp_path / "meminfo"
    info.write_text("MemTotal:  100 kB\nMemAvailable:     42 kB\n")
    assert available_bytes(info) == 42 * 1024
    info.write_text("MemTotal:  100 kB\n")
    assert available_bytes(info) is None


def test_known_problems_are_said(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    shop.modules["trt"].__version__ = "10.3.0"
    shop.open()
    assert "vision transformers may come out wrong" in caplog.text
    facts = {"precision": "fp16", "integrated": True, "capability": "8.7"}
    assert known_problems(TENSORRT, (10, 9), batch=4, **facts) == []
    assert known_problems(TENSORRT, (10, 11, 0), batch=1, **facts) == []
    assert len(known_problems(TENSORRT, (10, 11, 0), batch=2, **facts)) == 1
    assert len(known_problems(TENSORRT, (11, 1, 9), batch=2, **facts)) == 1


def test_problems_of_one_generation_of_gpus(
    shop: Shop, fake: FakeCuda, caplog: pytest.LogCaptureFixture
) -> None:
    facts = {"batch": 1, "integrated": False}
    for capability, precision, version, count in (
        ("12.0", "fp16", (10, 16, 1), 1),
        ("12.0", "int8", (11, 4, 0), 1),
        ("12.0", "fp32", (10, 16, 1), 0),
        ("12.0", "fp16", (10, 7, 0), 0),
        ("8.9", "fp16", (10, 16, 1), 0),
        (None, "fp16", (10, 16, 1), 0),
    ):
        rows = known_problems(
            TENSORRT, version, precision=precision, capability=capability, **facts
        )
        assert len(rows) == count, (capability, precision, version)
    fake.capability = (12, 0)
    store = shop.store()
    store._precision = "fp16"
    store._warn_of_known_problems()
    assert "compute capability 12.0" in caplog.text and "#4837" in caplog.text


@pytest.mark.parametrize(
    ("version", "fits"), [("10.2.9", 0), ("10.3", 1), ("11.4.1", 1), ("12.0", 0)]
)
def test_versions_that_are_supported(
    monkeypatch: pytest.MonkeyPatch, version: str, fits: int
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "tensorrt", fake_module(FakeCuda(), version=version))
    if fits:
        assert FLAVOURS["trt"].load("testing").__version__ == version
    else:
        with pytest.raises(EngineError, match="versions from 10.3 to before 12.0 are supported"):
            FLAVOURS["trt"].load("testing")


def test_keys_survive_a_round_trip_and_refuse_nonsense() -> None:
    key = EngineKey("a" * 64, "int8", "tensorrt", "10.3.0", SLOT_BUCKETS, ("8.7",), "linux-l4t36.4")
    assert EngineKey.from_dict(json.loads(key.to_json()), name="k") == key
    for values in ({}, [], {"profiles": 3}, {**key.to_dict(), "profiles": ["many"]}):
        with pytest.raises(EngineError, match="k is not the key of an engine"):
            EngineKey.from_dict(values, name="k")


def test_l4t_release(tmp_path: Path) -> None:
    path = tmp_path / "nv_tegra_release"
    path.write_text("# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic\n")
    assert l4t_release(path) == "36.4"
    path.write_text("something else")
    assert l4t_release(path) is None


def test_the_cache_folder_follows_the_variable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DEDOS_CACHE_DIR", str(tmp_path))
    assert default_engine_folder() == tmp_path / "engines"


@pytest.mark.parametrize("name", ["model.onnx", "model.batch4.onnx"])
def test_weights_beside_a_graph_count_for_its_build(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"graph")
    alone = build_memory(tmp_path / name, None)
    (tmp_path / "model.onnx.data").write_bytes(bytes(1000))
    (tmp_path / "text_encoder.onnx.data").write_bytes(bytes(5000))
    assert build_memory(tmp_path / name, None).wanted - alone.wanted == 6000


@pytest.mark.parametrize("name", ["model.onnx", "model.batch4.onnx"])
def test_an_engine_without_the_weights_beside_its_graph_is_refused(
    fake: FakeCuda, tmp_path: Path, name: str
) -> None:
    model = tmp_path / name
    model.write_bytes(image_graph())
    build_engine(fake_module(fake), TENSORRT, model, tiny_spec())
    (tmp_path / "model.onnx.data").write_bytes(bytes(2**20))
    with pytest.raises(EngineError, match="for a graph of 10.* bytes, so it is incomplete"):
        build_engine(fake_module(fake), TENSORRT, model, tiny_spec())
