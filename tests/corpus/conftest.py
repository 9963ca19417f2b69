"""Small corpora of every kind of input."""

from __future__ import annotations

import io
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("pyarrow")

import pyarrow as pa
import pyarrow.parquet
from corpus_helpers import film, png

from dedos_deploy.bundle import Bundle
from dedos_deploy.corpus.labelling import Job
from dedos_deploy.vocabulary import parse_vocabulary

sys.path.append(str(Path(__file__).parents[1] / "runtime"))

collect_ignore = ["machines"]
"""They need Ray and moto: `test_machines_and_buckets.py` runs them in an environment of their own."""


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A bundle that finds blue, green and red, in a millisecond."""
    from tiny_bundle import write_tiny_bundle

    return str(write_tiny_bundle(tmp_path_factory.mktemp("corpus") / "tiny"))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Five pictures in two folders, the third of them damaged: 1, 2, 10, inner/a, inner/b."""
    folder = tmp_path / "pictures"
    (folder / "inner").mkdir(parents=True)
    for number, name in enumerate(("1", "2", "10", "inner/a", "inner/b"), start=1):
        (folder / f"{name}.png").write_bytes(png(number))
    (folder / "10.png").write_bytes(png(3)[:40])
    (folder / "notes.txt").write_text("no picture")
    return folder


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Thirty frames, lossless, of which number n has the value 8 n."""
    return film(tmp_path / "clip.avi", 30)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Seven rows in groups of three, as Hugging Face's data sets keep them; row 2 has no bytes."""
    path = tmp_path / "rows.parquet"
    cells = [{"bytes": None if number == 2 else png(number), "path": "x"} for number in range(7)]
    pyarrow.parquet.write_table(
        pa.table({"label": list(range(7)), "image": cells}), path, row_group_size=3
    )
    return path


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    """Four samples of a WebDataset with labels beside them; sample 1 is damaged."""
    path = tmp_path / "shard-000.tar"
    with tarfile.open(path, "w") as tar:
        for number in range(4):
            content = png(number)[:30] if number == 1 else png(number)
            for name, data in ((f"{number}.png", content), (f"{number}.seg.png", png(9))):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return path


@pytest.fixture
def job(tmp_path: Path, bundle: str) -> Callable[..., Job]:
    """Return what makes a job of the tiny bundle into the folder `out`."""

    def made(classes: str = "blue,green", **options: object) -> Job:
        with Bundle.open(bundle) as opened:
            sha256 = opened.sha256
        return Job(
            output=str(tmp_path / "out"),
            bundle=bundle,
            vocabulary=parse_vocabulary(classes),
            bundle_sha256=sha256,
            threads=1,
            **options,  # type: ignore[arg-type]
        )

    return made
