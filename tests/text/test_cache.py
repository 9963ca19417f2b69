from __future__ import annotations

import errno
import json
import logging
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from dedos_deploy.text import CacheKey, EmbeddingCache, default_cache_folder

WIDTH = 16


def key_of(word: str, tower: str = "tower", templates: tuple[str, ...] = ("a {}",)) -> CacheKey:
    return CacheKey(tower, templates, word)


def row_of(word: str) -> np.ndarray:
    seed = int.from_bytes(word.encode(), "little") % 2**32
    return np.random.default_rng(seed).normal(size=WIDTH).astype(np.float32)


@pytest.fixture
def cache(tmp_path: Path) -> EmbeddingCache:
    return EmbeddingCache(tmp_path / "cache")


def test_round_trip_is_exact(cache: EmbeddingCache, caplog: pytest.LogCaptureFixture) -> None:
    assert cache.load(key_of("road"), WIDTH) is None
    assert cache.store(key_of("road"), row_of("road"))
    row = EmbeddingCache(cache.folder).load(key_of("road"), WIDTH)
    assert row is not None and row.dtype == np.float32
    assert (row == row_of("road")).all()
    assert caplog.records == []
    assert [path.suffix for path in cache.folder.rglob("*") if path.is_file()] == [".emb"]


def test_every_part_of_the_key_counts(cache: EmbeddingCache) -> None:
    keys = [
        key_of("road"),
        key_of("roa"),
        key_of("road", tower="other"),
        key_of("road", templates=("a {}", "the {}")),
        key_of("road", templates=("the {}", "a {}")),
        key_of("d", templates=("a {}", "roa")),
    ]
    assert len({cache.path(key) for key in keys}) == len(keys)
    cache.store(keys[0], row_of("road"))
    assert all(cache.load(key, WIDTH) is None for key in keys[1:])


def test_folder_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEDOS_CACHE_DIR", str(tmp_path))
    assert default_cache_folder() == tmp_path / "text"
    assert EmbeddingCache().folder == tmp_path / "text"
    monkeypatch.delenv("DEDOS_CACHE_DIR")
    folder = default_cache_folder()
    assert folder.is_absolute() and folder.parts[-2:] == ("dedos-deploy", "text")


def test_every_truncation_and_every_flipped_byte_is_noticed(
    cache: EmbeddingCache, caplog: pytest.LogCaptureFixture
) -> None:
    cache.store(key_of("road"), row_of("road"))
    path = cache.path(key_of("road"))
    data = path.read_bytes()
    damaged = [data[:length] for length in range(len(data))]
    damaged += [data[:i] + bytes([data[i] ^ 4]) + data[i + 1 :] for i in range(len(data))]
    for content in damaged:
        path.write_bytes(content)
        caplog.clear()
        assert cache.load(key_of("road"), WIDTH) is None
        (record,) = caplog.records
        assert f"'road' in {path} is damaged; encoding it again" in record.getMessage()
    cache.store(key_of("road"), row_of("road"))
    assert path.read_bytes() == data


def test_a_file_of_another_word_or_width_is_not_used(cache: EmbeddingCache) -> None:
    cache.store(key_of("road"), row_of("road"))
    cache.path(key_of("sky")).parent.mkdir(parents=True, exist_ok=True)
    os.replace(cache.path(key_of("road")), cache.path(key_of("sky")))
    assert cache.load(key_of("sky"), WIDTH) is None
    cache.store(key_of("road"), row_of("road"))
    assert cache.load(key_of("road"), WIDTH + 1) is None


@pytest.mark.parametrize("call", ["replace", "makedirs", "open"])
def test_full_disk_is_one_warning_and_leaves_nothing(
    call: str,
    cache: EmbeddingCache,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cache.store(key_of("sky"), row_of("sky"))

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        if call == "replace":
            patch.setattr(os, "replace", full)
        elif call == "makedirs":
            patch.setattr(Path, "mkdir", full)
        else:
            patch.setattr("builtins.open", full)
        stored = [cache.store(key_of(word), row_of(word)) for word in ("road", "car", "sky")]
    assert stored == [False, False, False]
    (record,) = caplog.records
    assert f"{cache.folder} cannot be written (No space left on device)" in record.getMessage()
    assert "DEDOS_CACHE_DIR" in record.getMessage()
    # What was there before is still there, and nothing half-written is.
    kept = cache.load(key_of("sky"), WIDTH)
    assert kept is not None and (kept == row_of("sky")).all()
    assert [p for p in cache.folder.rglob("*") if p.is_file()] == [cache.path(key_of("sky"))]
    assert cache.store(key_of("road"), row_of("road"))


def test_a_file_size_limit_of_the_system_is_survived(tmp_path: Path) -> None:
    """The write itself fails half way, as on a full disk or a quota."""
    resource = pytest.importorskip("resource")
    code = f"""
import json, logging, resource, sys
import numpy as np
from dedos_deploy.text import CacheKey, EmbeddingCache
logging.basicConfig(stream=sys.stderr)
resource.setrlimit(resource.RLIMIT_FSIZE, (64, {resource.RLIM_INFINITY}))
cache = EmbeddingCache({str(tmp_path)!r})
row = np.ones(512, dtype=np.float32)
print(json.dumps([cache.store(CacheKey("t", ("{{}}",), w), row) for w in ("a", "b")]))
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60
    )
    assert json.loads(result.stdout) == [False, False], result.stderr
    assert result.stderr.count("cannot be written (File too large)") == 1
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_unusable_folder_is_reported_once_each_way(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("not a folder")
    cache = EmbeddingCache(tmp_path / "file" / "cache")
    for word in ("road", "sky"):
        assert not cache.store(key_of(word), row_of(word))
        assert cache.load(key_of(word), WIDTH) is None
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2
    assert "cannot be written (Not a directory)" in messages[0]
    assert "cannot be read (Not a directory)" in messages[1]


WORDS = [f"word {index}" for index in range(12)]


def write_until(folder: str, deadline_s: float) -> None:
    """Write and read the same words again and again; exit 1 if anything was ever wrong."""
    warnings: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: warnings.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("dedos_deploy").addHandler(handler)
    cache = EmbeddingCache(folder)
    wrong = 0
    while time.monotonic() < deadline_s:
        for word in WORDS:
            wrong += not cache.store(key_of(word), row_of(word))
            row = cache.load(key_of(word), WIDTH)
            wrong += row is None or not bool((row == row_of(word)).all())
    raise SystemExit(1 if wrong or warnings else 0)


def start_writers(folder: Path, count: int, seconds: float) -> list[multiprocessing.Process]:
    context = multiprocessing.get_context("spawn")
    deadline_s = time.monotonic() + seconds
    writers = [
        context.Process(target=write_until, args=(str(folder), deadline_s)) for _ in range(count)
    ]
    for writer in writers:
        writer.start()
    return writers  # type: ignore[return-value]


def test_two_processes_at_once_lose_nothing(cache: EmbeddingCache) -> None:
    writers = start_writers(cache.folder, 2, seconds=4.0)
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0, 0]
    rows = [cache.load(key_of(word), WIDTH) for word in WORDS]
    assert all(
        row is not None and (row == row_of(word)).all()
        for row, word in zip(rows, WORDS, strict=True)
    )
    files = [path for path in cache.folder.rglob("*") if path.is_file()]
    assert len(files) == len(WORDS)


def test_a_killed_writer_leaves_whole_files(
    cache: EmbeddingCache, caplog: pytest.LogCaptureFixture
) -> None:
    (writer,) = start_writers(cache.folder, 1, seconds=60.0)
    give_up_s = time.monotonic() + 30.0
    while not cache.path(key_of(WORDS[-1])).exists() and time.monotonic() < give_up_s:
        time.sleep(0.01)
    writer.kill()
    writer.join(60)
    for word in WORDS:
        row = cache.load(key_of(word), WIDTH)
        assert row is not None and (row == row_of(word)).all()
    assert caplog.records == []
