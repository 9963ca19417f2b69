from __future__ import annotations

import hashlib
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from tiny_tower import CONTEXT, ROWS, WIDTH, Tower, tower_model

from dedos_deploy.errors import BadBundleError, BadInputError, EngineError, UnfinishedError
from dedos_deploy.text import (
    TEMPLATES,
    EmbeddingCache,
    TextEncoder,
    Tokenizer,
    TowerFiles,
    save_vocabulary,
)
from dedos_deploy.text import encoder as encoder_module
from dedos_deploy.text.tower import TextTower
from dedos_deploy.threads import usable_cores

Make = Callable[..., TextEncoder]

UNIT = np.eye(WIDTH, dtype=np.float32)


def sha256_of_source(source: Any) -> str:
    if not isinstance(source, bytes):
        source = source.read_bytes() if source.is_file() else b""
    return hashlib.sha256(source).hexdigest()


@pytest.fixture
def make(tower_onnx: Path, tokenizer_json: Path) -> Make:
    """Build an encoder of the tiny tower; keyword arguments replace the defaults.

    The hashes are those of the files that are there, unless a test promises others.
    """

    def build(**changes: Any) -> TextEncoder:
        files: dict[str, Any] = {
            "model": tower_onnx,
            "tokenizer": tokenizer_json,
            "context_length": CONTEXT,
            "text_width": WIDTH,
        }
        words: dict[str, Any] = {
            "templates": TEMPLATES["single"],
            "template_name": "single",
            "known": {},
            "cache": None,
        }
        for name in set(changes) & set(words):
            words[name] = changes.pop(name)
        files |= changes
        for name in ("model", "tokenizer"):
            files.setdefault(f"{name}_sha256", sha256_of_source(files[name]))
        return TextEncoder(TowerFiles(**files), **words)

    return build


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record every ONNX Runtime session that is created."""
    created: list[str] = []
    original = onnxruntime.InferenceSession

    def create(source: Any, *args: Any, **kwargs: Any) -> Any:
        created.append(str(source)[:80])
        return original(source, *args, **kwargs)

    monkeypatch.setattr(onnxruntime, "InferenceSession", create)
    return created


@pytest.mark.parametrize("name", list(TEMPLATES))
def test_parity_with_numpy(name: str, make: Make, tokenizer_json: Path, tower_numpy: Tower) -> None:
    words = ["road", "traffic light", "Straße", "x" * 20]
    tokenizer = Tokenizer(tokenizer_json, CONTEXT)
    expected = []
    for word in words:
        prompts = tower_numpy(tokenizer.encode([t.format(word) for t in TEMPLATES[name]]))
        mean = (prompts / np.linalg.norm(prompts, axis=1, keepdims=True)).mean(axis=0)
        expected.append(mean / np.linalg.norm(mean))
    rows = make(templates=TEMPLATES[name], template_name=name).encode(words)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows, expected, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1.0, atol=1e-6)


def test_many_words_equal_one_at_a_time(make: Make) -> None:
    """More prompts than fit one run of the tower."""
    words = [f"word {index}" for index in range(70)]
    rows = make().encode(words)
    alone = np.concatenate([make().encode([word]) for word in words[::23]])
    np.testing.assert_allclose(rows[::23], alone, atol=1e-6)
    assert make().encode([]).shape == (0, WIDTH)


def test_runs_are_bounded(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    original = TextTower._run

    def run(self: TextTower, tokens: np.ndarray) -> np.ndarray:
        sizes.append(len(tokens))
        return original(self, tokens)

    monkeypatch.setattr(TextTower, "_run", run)
    make(templates=TEMPLATES["vild14"]).encode([str(index) for index in range(3)])
    make(templates=("{}",) * 20).encode(["car"])
    make().encode([str(index) for index in range(40)])
    assert sizes == [14, 14, 14, 16, 4, 16, 16, 8]


def test_known_words_need_no_tower(make: Make, sessions: list[str], tmp_path: Path) -> None:
    known = {"road": UNIT[0], "Traffic  Light": UNIT[1]}
    encoder = make(known=known, model=tmp_path / "none.onnx", tokenizer=tmp_path / "none.json")
    rows = encoder.encode(["traffic light", "road", "ROAD"])
    assert (rows == UNIT[[1, 0, 0]]).all()
    assert sessions == []
    with pytest.raises(BadBundleError, match="tokenizer.json cannot be read"):
        encoder.encode(["road", "sky"])


def test_cached_words_need_no_tower(
    make: Make, sessions: list[str], tmp_path: Path, tower_onnx: Path
) -> None:
    first = make(cache=EmbeddingCache(tmp_path)).encode(["sky", "road"])
    assert len(sessions) == 1
    again = make(
        cache=EmbeddingCache(tmp_path), model=b"no model", model_sha256=sha256_of_source(tower_onnx)
    )
    assert (again.encode(["road", "SKY", "road"]) == first[[1, 0, 1]]).all()
    assert len(sessions) == 1


def test_a_word_is_encoded_once(make: Make, sessions: list[str]) -> None:
    encoder = make()
    first = encoder.encode(["sky", "sky", "Sky"])
    assert (first == first[0]).all()
    assert (encoder.encode(["SKY"]) == first[:1]).all()
    assert len(sessions) == 1


def test_known_words_import_no_runtime() -> None:
    code = """
import sys
import numpy as np
from dedos_deploy.text import TextEncoder
from dedos_deploy.text import TowerFiles
tower = TowerFiles(model="none", tokenizer="none", context_length=77, text_width=2,
    model_sha256="", tokenizer_sha256="")
encoder = TextEncoder(tower, templates=("{}",), template_name="bare", cache=None,
    known={"road": np.array([0, 1], dtype=np.float32)})
encoder.encode(["road"])
print([m for m in ("sqlite3", "onnxruntime", "tokenizers", "ftfy", "torch", "cv2") if m in sys.modules])
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


def test_another_tower_or_template_is_another_cache_entry(
    make: Make, sessions: list[str], tmp_path: Path, tower_weights: tuple[np.ndarray, np.ndarray]
) -> None:
    cache = EmbeddingCache(tmp_path)
    other = tower_model(tower_weights[0] * 2, tower_weights[1]).SerializeToString()
    for changes in ({}, {"model": other}, {"templates": ("the {}",)}):
        make(cache=cache, **changes).encode(["sky"])
        make(cache=cache, **changes).encode(["sky"])
    assert len(sessions) == 3


def test_a_damaged_cache_file_is_replaced(
    make: Make, tmp_path: Path, tower_onnx: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = make(cache=EmbeddingCache(tmp_path)).encode(["sky"])
    (path,) = [path for path in tmp_path.rglob("*") if path.is_file()]
    path.write_bytes(path.read_bytes()[:-700])
    assert (make(cache=EmbeddingCache(tmp_path)).encode(["sky"]) == first).all()
    (record,) = caplog.records
    assert f"{path} are damaged" in record.getMessage()
    again = make(
        cache=EmbeddingCache(tmp_path), model=b"", model_sha256=sha256_of_source(tower_onnx)
    )
    assert (again.encode(["sky"]) == first).all()


def test_an_unwritable_cache_costs_only_a_warning(
    make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    rows = make(cache=EmbeddingCache(tmp_path / "file")).encode(["sky", "road", "car"])
    assert (rows == make().encode(["sky", "road", "car"])).all()
    written = [r.getMessage() for r in caplog.records if "cannot be written" in r.getMessage()]
    assert len(written) == 1


def test_bytes_serve_as_files(make: Make, tower_onnx: Path, tokenizer_json: Path) -> None:
    encoder = make(model=tower_onnx.read_bytes(), tokenizer=tokenizer_json.read_bytes())
    assert (encoder.encode(["sky"]) == make().encode(["sky"])).all()


def test_a_word_longer_than_the_context_is_named(make: Make, sessions: list[str]) -> None:
    long = "very " * 80 + "long road"
    with pytest.raises(BadInputError, match="word 'very very.* is too long: .*text tower takes 77"):
        make().encode(["sky", long])
    assert sessions == []
    with pytest.raises(BadInputError, match="holds a token that marks the start or end"):
        make().encode(["the <end_of_text>"])


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_numbers_that_are_no_embedding_are_refused(value: float, make: Make) -> None:
    model = tower_model(
        np.full((ROWS, WIDTH), value, dtype=np.float32), np.ones(CONTEXT, dtype=np.float32)
    )
    with pytest.raises(EngineError, match="no usable embedding for the prompt 'A photo of a sky"):
        make(model=model.SerializeToString()).encode(["sky"])


def test_templates_that_cancel_are_refused(make: Make) -> None:
    weights = np.zeros(CONTEXT, dtype=np.float32)
    weights[1] = 1.0
    table = np.zeros((ROWS, WIDTH), dtype=np.float32)
    # "a" is token 320 and "the" 518; their embeddings are opposite, so the mean has no direction.
    table[320 % ROWS], table[518 % ROWS] = UNIT[0], -UNIT[0]
    model = tower_model(table, weights).SerializeToString()
    with pytest.raises(EngineError, match="no usable embedding for the word 'sky'"):
        make(model=model, templates=("a {}", "the {}")).encode(["sky"])


def test_a_tower_of_another_width_or_interface_is_refused(
    make: Make, tower_weights: tuple[np.ndarray, np.ndarray]
) -> None:
    with pytest.raises(EngineError, match=r"gave float32 \[1, 6\], not float32 \[1, 7\]"):
        make(text_width=7).encode(["sky"])
    other = tower_model(*tower_weights, output="text").SerializeToString()
    with pytest.raises(BadBundleError, match=r"outputs \['text'\], not \['tokens'\]"):
        make(model=other).encode(["sky"])
    with pytest.raises(EngineError, match="the text tower failed"):
        make(context_length=20).encode(["sky"])


def test_unusable_towers_are_named(make: Make, tmp_path: Path, tower_onnx: Path) -> None:
    with pytest.raises(BadBundleError, match="text_encoder.onnx cannot be read at"):
        make(model=tmp_path / "none.onnx").encode(["sky"])
    with pytest.raises(BadBundleError, match="text_encoder.onnx cannot be loaded"):
        make(model=b"no model").encode(["sky"])
    broken = onnx.load(tower_onnx)
    broken.graph.node[0].op_type = "NoSuchOperator"
    path = tmp_path / "broken.onnx"
    onnx.save(broken, path)
    with pytest.raises(BadBundleError, match="text_encoder.onnx cannot be loaded"):
        make(model=path).encode(["sky"])


def test_templates_need_a_place_for_the_word(make: Make) -> None:
    with pytest.raises(BadInputError, match="'mine' need at least one sentence.*'a photo'"):
        make(templates=("a {}", "a photo"), template_name="mine")
    with pytest.raises(BadInputError, match="'mine' need at least one sentence"):
        make(templates=(), template_name="mine")


def test_a_vocabulary_made_on_a_laptop_serves_a_robot(
    make: Make, sessions: list[str], tmp_path: Path, tower_onnx: Path
) -> None:
    path = tmp_path / "street.safetensors"
    laptop = make()
    laptop.save_vocabulary(path, ["sky", "Road"])
    robot = make(model=b"no model", model_sha256=sha256_of_source(tower_onnx))
    assert robot.load_vocabulary(path) == ("sky", "Road")
    assert (robot.encode(["road", "sky"]) == laptop.encode(["road", "sky"])).all()
    assert len(sessions) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_sha256": "1" * 64}, "has text_tower_sha256 '[0-9a-f]{64}', this bundle '1{64}'"),
        (
            {"tokenizer_sha256": "1" * 64},
            "has tokenizer_sha256 '[0-9a-f]{64}', this bundle '1{64}'",
        ),
        ({"context_length": 76}, "has context_length '77', this bundle '76'"),
        ({"templates": ("the {}",)}, "has templates 'A photo of a {} in the scene'"),
    ],
)
def test_a_vocabulary_of_another_bundle_is_refused(
    changes: dict[str, Any], message: str, make: Make, tmp_path: Path
) -> None:
    path = make().save_vocabulary(tmp_path / "street.safetensors", ["sky"])
    other = make(**changes, known={"sky": UNIT[0]})
    with pytest.raises(BadInputError, match=message + ".*make the file again with this bundle"):
        other.load_vocabulary(path)
    # What the message says works.
    other.save_vocabulary(path, ["sky"])
    assert other.load_vocabulary(path) == ("sky",)


def test_a_vocabulary_of_an_earlier_version_is_refused_in_one_sentence(
    make: Make, tmp_path: Path
) -> None:
    encoder = make(known={"sky": UNIT[0]})
    noted = encoder._identity()
    del noted["tokenizer_sha256"]
    path = save_vocabulary(tmp_path / "old.safetensors", ["sky"], UNIT[:1], noted)
    with pytest.raises(
        BadInputError, match="does not say its tokenizer_sha256, as those of earlier"
    ):
        encoder.load_vocabulary(path)


class Gate:
    """Holds runs of the tower until they are let through, one by one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.started: queue.Queue[int] = queue.Queue()
        self._go = threading.Semaphore(0)
        original = TextTower._run

        def run(tower: TextTower, tokens: np.ndarray) -> np.ndarray:
            self.started.put(len(tokens))
            assert self._go.acquire(timeout=30)
            return original(tower, tokens)

        monkeypatch.setattr(TextTower, "_run", run)

    def next(self) -> int:
        """Wait until a run has begun, let it through, and return its number of prompts."""
        prompts = self.started.get(timeout=30)
        self._go.release()
        return prompts


def start(call: Callable[[], Any], results: queue.Queue[Any]) -> threading.Thread:
    thread = threading.Thread(target=lambda: results.put(call()))
    thread.start()
    return thread


def wait_until_waiting(encoder: TextEncoder, count: int) -> None:
    give_up_s = time.monotonic() + 30
    while len(encoder._turns._waiting) < count:
        assert time.monotonic() < give_up_s
        time.sleep(0.005)


def test_a_small_request_gets_its_turn_within_a_large_one(
    make: Make, sessions: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    encoder = make()
    done: queue.Queue[Any] = queue.Queue()
    large = [f"thing {index}" for index in range(40)]
    threads = [start(lambda: ("large", encoder.encode(large)), done)]
    assert gate.started.get(timeout=30) == 16
    threads.append(start(lambda: ("small", encoder.encode(["sky", "grass"])), done))
    wait_until_waiting(encoder, 2)
    gate._go.release()
    # One batch of the large request was under way; the small one is next, and the rest follows.
    assert gate.next() == 2
    name, rows = done.get(timeout=30)
    assert name == "small"
    assert [gate.next(), gate.next()] == [16, 8]
    name, many = done.get(timeout=30)
    assert name == "large"
    for thread in threads:
        thread.join()
    assert len(sessions) == 1, "the tower was opened once for both"
    assert encoder._tower is None, "and is not kept"
    monkeypatch.undo()
    np.testing.assert_allclose(rows, make().encode(["sky", "grass"]), atol=1e-6)
    np.testing.assert_allclose(many, make().encode(large), atol=1e-6)


def test_two_requests_for_the_same_words_encode_them_once(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    encoder = make()
    done: queue.Queue[Any] = queue.Queue()
    words = [f"thing {index}" for index in range(20)]
    threads = [start(lambda: encoder.encode(words), done)]
    assert gate.started.get(timeout=30) == 16
    threads.append(start(lambda: encoder.encode(words[::-1]), done))
    wait_until_waiting(encoder, 2)
    gate._go.release()
    assert gate.next() == 4
    first, second = done.get(timeout=30), done.get(timeout=30)
    for thread in threads:
        thread.join()
    assert gate.started.empty()
    assert sorted(map(tuple, first)) == sorted(map(tuple, second))


def test_a_deadline_keeps_what_is_done_and_asking_again_gets_on(make: Make, tmp_path: Path) -> None:
    encoder = make(cache=EmbeddingCache(tmp_path))
    words = [f"thing {index}" for index in range(40)]
    for done, message in ((16, "16 of 40 new words"), (32, "16 of 24 new words")):
        with pytest.raises(UnfinishedError, match=f"{message} were .* kept; ask again"):
            encoder.encode(words, deadline_s=time.monotonic() - 1)
        kept = EmbeddingCache(tmp_path).load([encoder._key(word) for word in words])
        assert list(kept) == words[:done]
    np.testing.assert_allclose(
        encoder.encode(words, deadline_s=time.monotonic() - 1), make().encode(words), atol=1e-6
    )


def test_whoever_waits_in_vain_leaves_the_queue(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    encoder = make()
    done: queue.Queue[Any] = queue.Queue()
    thread = start(lambda: encoder.encode(["road"]), done)
    assert gate.started.get(timeout=30) == 1
    with pytest.raises(UnfinishedError, match="0 of 1 new words"):
        encoder.encode(["sky"], deadline_s=time.monotonic() + 0.05)
    gate._go.release()
    thread.join()
    start(lambda: encoder.encode(["sky"]), done).join(0)
    assert gate.next() == 1
    assert len([done.get(timeout=30), done.get(timeout=30)]) == 2


def test_an_error_ends_the_turn(make: Make) -> None:
    encoder = make(context_length=20)
    for _ in range(2):
        with pytest.raises(EngineError, match="the text tower failed"):
            encoder.encode(["sky"])
    assert encoder._tower is None


def test_memory_is_bounded_and_known_words_stay(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder_module, "ROWS_KEPT", 30)
    encoder = make(known={"road": UNIT[0]})
    words = [f"thing {index}" for index in range(100)]
    assert len(encoder.encode(words)) == 100
    assert len(encoder._memory._others) == 30
    assert (encoder.encode(["road"]) == UNIT[:1]).all()
    row = next(iter(encoder._memory._others.values()))
    assert row.base is None, "a row must not keep the rows beside it"


def test_files_other_than_the_promised_ones_are_never_run(
    make: Make, sessions: list[str], tmp_path: Path, tower_onnx: Path, tokenizer_json: Path
) -> None:
    """Whoever swaps a file after the check, or opens without one, poisons no cache."""
    cache = EmbeddingCache(tmp_path)
    for name, path in (("model", tower_onnx), ("tokenizer", tokenizer_json)):
        swapped = tmp_path / f"swapped {name}"
        encoder = make(cache=cache, **{name: swapped, f"{name}_sha256": sha256_of_source(path)})
        swapped.write_bytes(path.read_bytes() + b" ")
        with pytest.raises(BadBundleError, match="the manifest promises"):
            encoder.encode(["sky"])
        swapped.write_bytes(path.read_bytes())
        assert len(encoder.encode([f"sky {name}"])) == 1
    assert len(sessions) == 2
    assert cache.load([encoder._key("sky")]) == {}


def test_the_tokenizer_is_read_once(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading it holds up every thread, frames among them, for a third of a second."""
    read: list[TowerFiles] = []
    original = TowerFiles.open_tokenizer
    monkeypatch.setattr(
        TowerFiles, "open_tokenizer", lambda files: read.append(files) or original(files)
    )
    encoder = make()
    for word in ("sky", "road", "car"):
        encoder.encode([word])
    assert len(read) == 1


def test_threads_are_those_asked_for(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    original = onnxruntime.InferenceSession

    def create(source: Any, options: Any, **kwargs: Any) -> Any:
        asked.append(options.intra_op_num_threads)
        return original(source, options, **kwargs)

    monkeypatch.setattr(onnxruntime, "InferenceSession", create)
    make().encode(["sky"], threads=1)
    make().encode(["sky"])
    assert asked == [1, usable_cores()]
