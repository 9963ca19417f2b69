"""Inputs as sources, sources as shards, and which of them a worker takes next."""

from __future__ import annotations

import io
import os
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from dedos_deploy.corpus import manifest as manifests
from dedos_deploy.corpus.inputs import Counted, absolute, counted, sources_in
from dedos_deploy.corpus.manifest import Manifest, Piece, cut, manifest_bytes, wanted_pieces
from dedos_deploy.corpus.plan import Plan
from dedos_deploy.corpus.records import INFO_FILE
from dedos_deploy.errors import BadInputError


def names(sources: list[str], top: Path | str) -> list[str]:
    return [source.removeprefix(f"{top}/") for source in sources]


def test_a_folder_is_all_below_it_in_natural_order(pictures: Path, video: Path) -> None:
    expected = ["1.png", "2.png", "10.png", "inner/a.png", "inner/b.png"]
    (pictures / ".hidden").mkdir()
    (pictures / ".hidden/c.png").write_bytes(b"")
    (pictures / "labels").mkdir()
    (pictures / "labels" / INFO_FILE).write_text("{}")
    (pictures / "labels/part.parquet").write_bytes(b"")
    assert names(sources_in(str(pictures)), pictures) == expected
    assert names(sources_in(str(pictures / "**/*.png")), pictures) == expected
    assert sources_in(str(video)) == [str(video)]
    memory = fsspec.filesystem("memory")
    memory.put(str(pictures), "/natural", recursive=True)
    assert names(sources_in("memory://natural"), "memory:///natural") == expected
    found = sources_in("memory://natural/*.png")
    assert names(found, "memory:///natural") == ["1.png", "2.png", "10.png"]
    assert sources_in("memory://natural/1.png") == found[:1]


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("rtsp://gate/live", "is live and has no end; record it"),
        ("camera:0", "is live and has no end"),
        ("test:bars", "is live and has no end"),
        ("s3://key:secret@bucket/a.jpg", r"'s3://\*\*\*@bucket/a.jpg' holds a password or key"),
        ("no/such/file.mp4", "no/such/file.mp4' does not exist; give a picture, video"),
        ("no/*.png", "names nothing that can be labelled"),
        ("memory://no/folder", "names nothing that can be labelled"),
        ("nope://bucket/a.jpg", "cannot be reached .*give a path, or an address that fsspec knows"),
        ("s3://bucket/a.jpg", "cannot be reached: Install s3fs"),
    ],
)
def test_an_input_that_names_nothing_is_refused(address: str, message: str) -> None:
    if address.startswith("s3://bucket") and "s3" in fsspec.available_protocols():
        pytest.importorskip("fsspec")
    with pytest.raises(BadInputError, match=message):
        sources_in(absolute(address))


def test_sources_are_counted_and_damage_is_an_error_of_one(
    video: Path, rows: Path, samples: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1")
    given = [str(video), str(rows), str(samples), str(broken), "memory://a.tar", "a.jpg"]
    found = list(counted(given))
    assert [one.source for one in found] == given
    assert [(one.frames, one.is_exact) for one in found] == [
        (30, False),
        (7, True),
        (4, True),
        (None, False),
        (None, False),
        (1, True),
    ]
    assert [bool(one.error) for one in found] == [False, False, False, True, False, False]


def test_links_to_folders_are_followed_unless_they_lead_back(tmp_path: Path) -> None:
    for name in ("top/1.png", "disk/2.png", "disk/other/3.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    for name, target in (("top/drive", "disk"), ("top/up", "."), ("disk/back", "top")):
        (tmp_path / name).symlink_to(tmp_path / target)
    found = names(sources_in(str(tmp_path / "top")), tmp_path / "top")
    assert found == ["1.png", "drive/2.png", "drive/other/3.png"]


def test_a_name_that_is_no_text_is_an_error_of_one(tmp_path: Path) -> None:
    name = os.fsdecode(os.fsencode(tmp_path) + b"/sch\xf6n.png")
    (good, bad) = counted([str(tmp_path / "schön.png"), name])
    assert (good.frames, good.error) == (1, "")
    assert bad.source == f"{tmp_path}/sch\\xf6n.png" and "is a name that is not UTF-8" in bad.error
    content = manifest_bytes([(0, Piece(good.source, 0, 1, 1, 1))], [bad])
    assert Manifest(content, "it").errors[0]["source"] == bad.source
    with pytest.raises(BadInputError, match=r"sch.*xf6n.png' is a name .*; rename it"):
        absolute(name)


def test_a_manifest_of_other_columns_is_refused() -> None:
    content = io.BytesIO()
    parquet.write_table(pa.table({"shard": [0]}), content)
    with pytest.raises(BadInputError, match="it has not the columns of a manifest; make a new"):
        Manifest(content.getvalue(), "it")


def pieces(*items: Counted, every: int = 1, most: int | None = None) -> list[Piece]:
    return list(wanted_pieces(((0, item) for item in items), every=every, most=most))


def test_wanted_frames() -> None:
    clip, tar, far = (
        Counted("v.mp4", 10, False),
        Counted("a.tar", 5, True),
        Counted("m", None, False),
    )
    assert pieces(clip, tar, far) == [
        Piece("v.mp4", 0, None, 1, 10),
        Piece("a.tar", 0, 5, 1, 5),
        Piece("m", 0, None, 1, None),
    ]
    assert pieces(clip, tar, every=4) == [
        Piece("v.mp4", 0, None, 4, 3),
        Piece("a.tar", 0, 5, 4, 2),
    ]
    assert pieces(clip, tar, every=4, most=4) == [
        Piece("v.mp4", 0, None, 4, 3),
        Piece("a.tar", 0, 1, 4, 1),
    ]
    assert pieces(far, clip, most=4) == [Piece("m", 0, 4, 1, None)]
    stills = [Counted(f"{n}.png", 1, True) for n in range(7)]
    assert [piece.source for piece in pieces(*stills, every=3)] == ["0.png", "3.png", "6.png"]
    with pytest.raises(BadInputError, match="'v.mp4' is named twice by the inputs"):
        pieces(clip, clip)


def test_a_manifest_gives_every_shard_what_it_was_cut_into() -> None:
    whole = [
        Piece("long", 0, None, 2, 7),
        Piece("far", 0, None, 1, None),
        *(Piece(f"{n}.png", 0, 1, 1, 1) for n in range(20_000)),
    ]
    rows = list(cut(whole, 3))
    assert rows[:4] == [
        (0, Piece("long", 0, 6, 2, 3)),
        (1, Piece("long", 6, 12, 2, 3)),
        (2, Piece("long", 12, None, 2, 1)),
        (3, Piece("far", 0, None, 1, None)),
    ]
    manifest = Manifest(manifest_bytes(rows, [Counted("x", None, False, "no")]), "it")
    assert [(n, p) for n in range(len(manifest)) for p in manifest.pieces(n)] == rows
    assert [manifest.continues(n) for n in range(4)] == [False, True, True, False]
    assert [manifest.frames(n) for n in range(5)] == [3, 3, 1, 0, 3] and not manifest.is_counted
    assert manifest.errors == [{"source": "x", "frame": 0, "stop": None, "error": "no"}]
    with pytest.raises(BadInputError, match="it is damaged .*make a new data set"):
        Manifest(b"PAR1", "it")


def plan_of(done: set[int]) -> Plan:
    clips = [Piece("a", 0, None, 1, 12), *(Piece(f"{n}.png", 0, 1, 1, 1) for n in range(2))]
    return Plan(Manifest(manifest_bytes(cut([*clips, Piece("b", 0, None, 1, 8)], 2)), "it"), done)


def test_a_worker_goes_on_in_its_video_and_others_take_what_is_free_or_half() -> None:
    plan = plan_of(set())
    assert plan.left == 11
    assert [plan.next(0) for _ in range(2)] == [0, 1]
    assert [plan.next(1) for _ in range(2)] == [6, 7]
    assert [plan.next(0), plan.next(1)] == [2, 8]
    assert [plan.next(2), plan.next(2)] == [4, 5]
    plan.leave(2, 5)
    assert plan.next(3) == 5 and plan.next(0) == 3


def test_a_plan_hands_out_every_shard_that_is_not_done_once() -> None:
    for seed in range(50):
        chance = random.Random(seed)
        done = set(chance.sample(range(11), chance.randrange(11)))
        plan, given = plan_of(done), []
        while (shard := plan.next(worker := chance.randrange(3))) is not None:
            if chance.random() < 0.2:
                plan.leave(worker, shard)
            else:
                given.append(shard)
        assert sorted([*given, *done]) == list(range(11)) and plan.left == 0


def test_shards_are_read_by_several_threads_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """In groups of a few rows, which threads would take from each other."""
    monkeypatch.setattr(manifests, "_ROWS_PER_GROUP", 4)
    pieces = [Piece(f"clip {n:04}", 0, 1, 1, 1) for n in range(600)]
    manifest = Manifest(manifest_bytes(enumerate(pieces)), "it")
    asked = np.random.default_rng(0).integers(0, len(pieces), 3000).tolist()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(manifest.pieces, asked))
    assert found == [[pieces[shard]] for shard in asked]
