from __future__ import annotations

import builtins
import logging
import multiprocessing
import os
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dedos_deploy.text import CacheKey, EmbeddingCache, default_cache_folder
from dedos_deploy.text import cache as cache_module

WIDTH = 16


def key_of(word: str, **changes: Any) -> CacheKey:
    return replace(CacheKey("tower", "tokenizer", 77, WIDTH, ("a {}",), word), **changes)


def row_of(word: str) -> np.ndarray:
    seed = int.from_bytes(word.encode(), "little") % 2**32
    return np.random.default_rng(seed).normal(size=WIDTH).astype(np.float32)


def store(cache: EmbeddingCache, *words: str) -> bool:
    return cache.store({key_of(word): row_of(word) for word in words})


def kept(cache: EmbeddingCache, words: Sequence[str]) -> list[str]:
    """Return which words are there, after a look at every row."""
    rows = cache.load([key_of(word) for word in words])
    assert all((row == row_of(word)).all() for word, row in rows.items())
    return list(rows)


@pytest.fixture
def cache(tmp_path: Path) -> EmbeddingCache:
    return EmbeddingCache(tmp_path / "cache")


def test_round_trip_is_exact(cache: EmbeddingCache, caplog: pytest.LogCaptureFixture) -> None:
    assert cache.load([key_of("road")]) == {}
    assert not cache.folder.exists()
    assert store(cache, "road", "sky")
    rows = EmbeddingCache(cache.folder).load([key_of("road"), key_of("car")])
    assert list(rows) == ["road"] and rows["road"].dtype == np.float32
    assert (rows["road"] == row_of("road")).all()
    assert caplog.records == []
    assert list(cache.folder.iterdir()) == [cache.path]


def test_every_part_of_the_key_counts(cache: EmbeddingCache) -> None:
    keys = [
        key_of("road"),
        key_of("roa"),
        key_of("road", tower_sha256="other"),
        key_of("road", tokenizer_sha256="other"),
        key_of("road", context_length=7),
        key_of("road", text_width=7),
        key_of("road", context_length=771, text_width=6),
        key_of("road", templates=("a {}", "the {}")),
        key_of("road", templates=("the {}", "a {}")),
        key_of("d", templates=("a {}", "roa")),
        key_of("road", tower_sha256="tokenizer", tokenizer_sha256="tower"),
    ]
    assert len({key.digest() for key in keys}) == len(keys)
    store(cache, "road")
    assert all(cache.load([key]) == {} for key in keys[1:])


def test_folder_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEDOS_CACHE_DIR", str(tmp_path))
    assert default_cache_folder() == tmp_path / "text"
    assert EmbeddingCache().folder == tmp_path / "text"
    monkeypatch.delenv("DEDOS_CACHE_DIR")
    folder = default_cache_folder()
    assert folder.is_absolute() and folder.parts[-2:] == ("dedos-deploy", "text")


def test_a_damaged_file_is_reported_once_and_replaced(
    cache: EmbeddingCache, caplog: pytest.LogCaptureFixture
) -> None:
    """Truncations and flipped bytes all over the file: never an error, never a wrong row."""
    words = [f"word {index}" for index in range(40)]
    store(cache, *words)
    whole = cache.path.read_bytes()
    step = len(whole) // 40
    damaged = [whole[:length] for length in range(step // 2, len(whole), step)]
    damaged += [
        whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :] for at in range(18, len(whole), step)
    ]
    damaged += [b"no database" * 300, b"\0" * len(whole)]
    lost = 0
    for content in damaged:
        cache.path.write_bytes(content)
        caplog.clear()
        fresh = EmbeddingCache(cache.folder)
        found = kept(fresh, words)
        assert store(fresh, *words)
        assert kept(fresh, words) == words
        complaints = [record.getMessage() for record in caplog.records]
        assert all("damaged" in message for message in complaints)
        assert sum("beginning anew" in message for message in complaints) <= 1
        lost += len(found) < len(words)
    assert lost > len(damaged) / 2


def test_a_row_that_does_not_fit_its_hash_key_or_width_is_not_used(
    cache: EmbeddingCache, caplog: pytest.LogCaptureFixture
) -> None:
    store(cache, "road", "sky", "car")
    with sqlite3.connect(cache.path) as rows:
        value = "(SELECT value FROM rows WHERE key = ?)"
        checksum = "(SELECT sha256 FROM rows WHERE key = ?)"
        sky, road = key_of("sky").digest(), key_of("road").digest()
        rows.execute(
            f"UPDATE rows SET value = {value}, sha256 = {checksum} WHERE key = ?", (sky, sky, road)
        )
        rows.execute("UPDATE rows SET value = 3 WHERE key = ?", (key_of("car").digest(),))
    rows.close()
    assert kept(cache, ["road", "sky", "car"]) == ["sky"]
    assert [record.args and record.args[0] for record in caplog.records] == ["road", "car"]
    assert store(cache, "road", "car")
    assert kept(cache, ["road", "sky", "car"]) == ["road", "sky", "car"]


def test_another_version_or_other_tables_are_replaced(
    cache: EmbeddingCache, caplog: pytest.LogCaptureFixture
) -> None:
    for change in ("PRAGMA user_version = 9", "DROP TABLE rows"):
        store(cache, "road")
        with sqlite3.connect(cache.path) as rows:
            rows.execute(change)
        rows.close()
        caplog.clear()
        assert kept(cache, ["road"]) == []
        assert "damaged" in caplog.text and "beginning anew" in caplog.text
        assert store(cache, "road") and kept(cache, ["road"]) == ["road"]


def test_the_size_is_bounded_and_the_least_recently_used_goes(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path, most_bytes=300_000)
    store(cache, "first", "second")
    for index in range(40):
        rows = {key_of(f"{index} {word}"): row_of("x") for word in range(100)}
        assert cache.store(rows)
        assert kept(cache, ["first"]) == ["first"]
    # The rows alone would take three times as much.
    assert 150_000 < cache.path.stat().st_size < 350_000
    assert kept(cache, ["first", "second"]) == ["first"]
    assert list(tmp_path.iterdir()) == [cache.path]


def test_one_row_above_the_limit_does_not_loop(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path, most_bytes=1)
    assert store(cache, "road")
    assert kept(cache, ["road"]) == []


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="owners and modes are those of POSIX")
def test_folder_and_file_are_the_users_alone(cache: EmbeddingCache) -> None:
    cache.folder.mkdir(mode=0o755)
    cache.folder.chmod(0o777)
    cache.path.touch(mode=0o644)
    assert store(cache, "road")
    assert stat.S_IMODE(cache.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(cache.path.stat().st_mode) == 0o600


@pytest.mark.parametrize("link", ["file", "folder"])
def test_links_are_never_followed(
    link: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = EmbeddingCache(tmp_path / "other")
    store(other, "road")
    before = other.path.read_bytes()
    cache = EmbeddingCache(tmp_path / "cache")
    if link == "folder":
        cache.folder.symlink_to(other.folder)
    else:
        cache.folder.mkdir()
        cache.path.symlink_to(other.path)
    assert kept(cache, ["road"]) == []
    assert not store(cache, "sky") and not store(cache, "sky")
    assert other.path.read_bytes() == before
    kind = {"file": "rows.db is not a regular file", "folder": "it is not a folder"}[link]
    assert [(kind in record.getMessage()) for record in caplog.records] == [True, True]


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="owners and modes are those of POSIX")
def test_what_belongs_to_another_user_is_not_used(
    cache: EmbeddingCache, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(cache, "road")
    monkeypatch.setattr(os, "geteuid", lambda: cache.folder.stat().st_uid + 1)
    assert kept(cache, ["road"]) == []
    assert not store(cache, "sky")
    assert caplog.text.count("belongs to another user") == 2


def test_the_file_per_word_of_earlier_versions_is_removed(cache: EmbeddingCache) -> None:
    old = cache.folder / "ab"
    old.mkdir(parents=True)
    (old / f"{'0' * 62}.emb").write_bytes(b"DEDOSEM1")
    (cache.folder / "cd").mkdir()
    (cache.folder / "cd" / "notes").write_text("mine")
    assert store(cache, "road")
    assert sorted(path.name for path in cache.folder.iterdir()) == ["cd", "rows.db"]
    assert (cache.folder / "cd" / "notes").read_text() == "mine"


def test_python_without_sqlite_costs_one_warning(
    cache: EmbeddingCache, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(cache, "road")
    original = builtins.__import__

    def no_sqlite(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "sqlite3":
            raise ImportError("No module named '_sqlite3'", name="_sqlite3")
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", no_sqlite)
    assert kept(cache, ["road"]) == []
    assert not store(cache, "sky") and not store(cache, "sky")
    (record,) = caplog.records
    assert "cannot be used (No module named '_sqlite3')" in record.getMessage()
    assert "DEDOS_CACHE_DIR" in record.getMessage()


def test_a_file_size_limit_of_the_system_is_survived(tmp_path: Path) -> None:
    """The write itself fails half way, as on a full disk or a quota; what was there is kept."""
    pytest.importorskip("resource")
    code = f"""
import json, logging, resource, sys
import numpy as np
from dedos_deploy.text import CacheKey, EmbeddingCache
logging.basicConfig(stream=sys.stderr)
cache = EmbeddingCache({str(tmp_path / "cache")!r})
def key(word): return CacheKey("t", "t", 7, 512, ("{{}}",), word)
row = np.ones(512, dtype=np.float32)
done = [cache.store({{key("first"): row}})]
resource.setrlimit(resource.RLIMIT_FSIZE, (65536, resource.RLIM_INFINITY))
for _ in range(2):
    done.append(cache.store({{key(str(i)): row for i in range(100)}}))
print(json.dumps([done, len(cache.load([key("first")]))]))
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60
    )
    assert result.stdout.strip() == "[[true, false, false], 1]", result.stderr
    assert result.stderr.count("cannot be written (") == 1


def test_unusable_folder_is_reported_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("not a folder")
    cache = EmbeddingCache(tmp_path / "file" / "cache")
    for word in ("road", "sky"):
        assert not store(cache, word)
        assert kept(cache, [word]) == []
    (record,) = caplog.records
    assert "cannot be written (File exists)" in record.getMessage()
    assert "DEDOS_CACHE_DIR" in record.getMessage()


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="owners and modes are those of POSIX")
def test_a_folder_that_can_only_be_read_still_serves(cache: EmbeddingCache) -> None:
    store(cache, "road")
    cache.path.chmod(0o400)
    cache.folder.chmod(0o500)
    code = f"""
import logging, os, sqlite3, sys
import numpy as np
import dedos_deploy.bundle
from dedos_deploy.text import CacheKey, EmbeddingCache
logging.basicConfig(stream=sys.stderr)
key = CacheKey("tower", "tokenizer", 77, {WIDTH}, ("a {{}}",), "road")
# Root may write anywhere; give that up where it is root, and be the folder's owner.
if os.geteuid() == 0:
    for path in ({str(cache.path)!r}, {str(cache.folder)!r}):
        os.chown(path, 65534, 65534)
    parts = {str(cache.folder.parent)!r}
    while parts != "/":
        os.chmod(parts, os.stat(parts).st_mode | 0o111)
        parts = os.path.dirname(parts)
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
cache = EmbeddingCache({str(cache.folder)!r})
print(list(cache.load([key])), cache.store({{key: np.ones({WIDTH}, np.float32)}}))
"""
    try:
        result = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=60
        )
    finally:
        cache.folder.chmod(0o700)
    assert result.stdout.strip() == "['road'] False", result.stderr
    assert result.stderr.count("cannot be written (attempt to write a readonly database)") == 1


WORDS = [f"word {index}" for index in range(12)]


def write_until(folder: str, deadline_s: float) -> None:
    """Write and read the same words again and again; exit 1 if anything was ever wrong."""
    warnings: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: warnings.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("dedos_deploy").addHandler(handler)
    # A disk that others keep busy may stall a write for seconds; it must not look like a lost one.
    cache_module.LOCK_WAIT_S = 30.0
    cache = EmbeddingCache(folder)
    wrong = 0
    while time.monotonic() < deadline_s:
        wrong += not store(cache, *WORDS)
        wrong += kept(cache, WORDS) != WORDS
        time.sleep(0.01)
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
    writers = start_writers(cache.folder, 2, seconds=6.0)
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert kept(cache, WORDS) == WORDS
    assert list(cache.folder.iterdir()) == [cache.path]


def test_killed_writers_leave_a_whole_file(
    cache: EmbeddingCache, caplog: pytest.LogCaptureFixture
) -> None:
    for turn in range(3):
        (writer,) = start_writers(cache.folder, 1, seconds=60.0)
        give_up_s = time.monotonic() + 30.0
        while not kept(cache, WORDS) and time.monotonic() < give_up_s:
            time.sleep(0.01)
        time.sleep(0.05 + 0.003 * turn)
        writer.kill()
        writer.join(60)
        assert kept(cache, WORDS) == WORDS
    assert caplog.records == []
