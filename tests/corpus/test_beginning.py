"""How a data set begins and goes on: one of several runs at once, after an end in between, changed sources."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest
from corpus_helpers import film, png
from fsspec import AbstractFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from pyarrow import parquet

from dedos_deploy.corpus.beginning import Wanted, begin
from dedos_deploy.corpus.folders import folder_at
from dedos_deploy.corpus.labelling import Job
from dedos_deploy.corpus.manifest import MANIFEST_FILE
from dedos_deploy.corpus.records import INFO_FILE
from dedos_deploy.errors import BadInputError
from dedos_deploy.progress import Progress

Jobs = Callable[..., Job]


@pytest.fixture
def wanted(video: Path) -> Wanted:
    return Wanted((str(video),), shard_frames=10)


def at_an_address(job: Job) -> Job:
    return replace(job, output=f"memory:/{job.output}")


@pytest.mark.parametrize("place", [lambda job: job, at_an_address])
@pytest.mark.parametrize("written", [(), (INFO_FILE,), (INFO_FILE, MANIFEST_FILE)])
def test_of_runs_that_begin_in_one_moment_one_alone_goes_on(
    job: Jobs, wanted: Wanted, place: Callable[[Job], Job], written: tuple[str, ...]
) -> None:
    """Wherever the first one is when the second begins, what is there is of one run."""
    one = place(job())
    first, second = begin(one, wanted), begin(one, replace(wanted, shard_frames=7))
    folder = folder_at(one.output)
    contents = {INFO_FILE: first.info.to_json().encode(), MANIFEST_FILE: first.new or b""}
    for name in written:
        folder.write(name, contents[name])
    if written:
        with pytest.raises(BadInputError, match="another run has begun a data set in .* same time"):
            second.write()
        # Here the first one ends, as by kill -9.
        again = begin(one, wanted)
        again.write()
    else:
        second.write()
        with pytest.raises(BadInputError, match="another run has begun"):
            first.write()
    expected = contents[MANIFEST_FILE] if written else second.new
    assert folder.read(MANIFEST_FILE) == expected
    assert folder.read(INFO_FILE) == contents[INFO_FILE]


def test_files_of_nobody_knows_which_run_are_refused(
    job: Jobs, wanted: Wanted, tmp_path: Path
) -> None:
    begin(job(), wanted).write()
    info = (tmp_path / "out" / INFO_FILE).read_bytes()
    (tmp_path / "out" / INFO_FILE).unlink()
    with pytest.raises(BadInputError, match=f"has a {MANIFEST_FILE} and no {INFO_FILE}; give"):
        begin(job(), wanted)
    (tmp_path / "out" / MANIFEST_FILE).unlink()
    (tmp_path / "out" / INFO_FILE).write_bytes(info)
    (tmp_path / "out/labels").mkdir()
    (tmp_path / "out/labels/part-000000.parquet").touch()
    with pytest.raises(BadInputError, match=f"labels with files and no {MANIFEST_FILE}; give"):
        begin(job(), wanted)


class Plain(MemoryFileSystem):
    """Knows no PUT that fails where there is something, as most of fsspec's packages."""

    protocol = "oss"

    def pipe_file(self, path: str, value: bytes) -> None:
        super().pipe_file(path, value)


def test_a_data_set_begins_where_files_cannot_be_put_if_absent(
    job: Jobs, wanted: Wanted, tmp_path: Path
) -> None:
    fsspec.register_implementation("oss", Plain, clobber=True)
    place = replace(job(), output=f"oss:/{tmp_path}/out")
    first, second = begin(place, wanted), begin(place, replace(wanted, shard_frames=7))
    first.write()
    with pytest.raises(BadInputError, match="another run has begun"):
        second.write()
    assert folder_at(place.output).read(MANIFEST_FILE) == first.new


def test_a_store_is_asked_once_for_its_list(job: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec.filesystem("memory").pipe_file("/listed/0.png", png(1))
    found: list[str] = []

    def find(self: MemoryFileSystem, path: str, **options: Any) -> Any:
        found.append(path)
        return AbstractFileSystem.find(self, path, **options)

    monkeypatch.setattr(MemoryFileSystem, "find", find, raising=False)
    begun = begin(job(), Wanted(("memory://listed",)))
    (piece,) = begun.manifest.pieces(0)
    assert found == ["/listed"] and piece.source == "memory:///listed/0.png" and piece.stamp


class Warnings(Progress):
    def __init__(self) -> None:
        self.said: list[str] = []

    def warn(self, text: str) -> None:
        self.said.append(text)


def test_a_source_that_has_changed_at_the_same_size_is_named(job: Jobs, pictures: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/changed/0.png", png(1))
    wanted, told = Wanted((str(pictures), "memory://changed", "scene:hall?frames=2")), Warnings()
    begin(job(), wanted, told).write()
    assert begin(job(), wanted, told).changed == () and told.said == []
    found = (pictures / "2.png").stat()
    (pictures / "2.png").write_bytes((pictures / "2.png").read_bytes()[::-1])
    os.utime(pictures / "2.png", ns=(found.st_atime_ns, found.st_mtime_ns + 1))
    (pictures / "inner/a.png").unlink()
    memory.pipe_file("/changed/0.png", png(1)[::-1])
    begun = begin(job(), wanted, told)
    assert [name.rpartition("/")[2] for name in begun.changed] == ["2.png", "a.png", "0.png"]
    (said,) = told.said
    assert "2.png' and 2 more have changed since the data set was begun, see errors.jsonl" in said
    errors = begun.errors_of(())
    assert [one["source"] for one in errors if "has changed" in one.get("warning", "")] == [
        *begun.changed
    ]


def test_a_data_set_that_was_begun_without_versions_goes_on(job: Jobs, tmp_path: Path) -> None:
    """As those of earlier versions of this package."""
    clip = film(tmp_path / "clip.avi", 4)
    begin(job(), Wanted((str(clip),))).write()
    path = tmp_path / "out" / MANIFEST_FILE
    table = parquet.read_table(path)
    metadata = parquet.read_metadata(path).metadata
    kept = table.drop_columns(["stamp"])
    with parquet.ParquetWriter(path, kept.schema) as file:
        file.write_table(kept)
        file.add_key_value_metadata({b"dedos.errors": metadata[b"dedos.errors"]})
    clip.touch()
    begun = begin(job(), Wanted((str(clip),)))
    assert begun.changed == () and begun.manifest.pieces(0)[0].source == str(clip)
