"""From one bucket into another, by moto's S3."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import s3fs
from corpus_helpers import film, png
from moto.server import ThreadedMotoServer

from dedos_deploy.bundle import Bundle
from dedos_deploy.cli.label import main
from dedos_deploy.corpus import open_corpus
from dedos_deploy.corpus.beginning import Begun, Wanted, begin
from dedos_deploy.corpus.labelling import Job
from dedos_deploy.corpus.records import part_name
from dedos_deploy.errors import BadInputError
from dedos_deploy.vocabulary import parse_vocabulary


@pytest.fixture(scope="module")
def files() -> Iterator[s3fs.S3FileSystem]:
    monkeypatch = pytest.MonkeyPatch()
    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    found = s3fs.S3FileSystem()
    found.mkdir("inputs")
    found.mkdir("outputs")
    yield found
    server.stop()
    monkeypatch.undo()


def test_a_bucket_is_labelled_into_another_and_a_lost_part_again(
    files: s3fs.S3FileSystem, bundle: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(4):
        files.pipe_file(f"inputs/{number}.png", png(number)[: 40 if number == 2 else None])
    files.put_file(str(film(tmp_path / "film.avi", 30)), "inputs/film.avi")
    output = "s3://outputs/set"
    words = ["s3://inputs", "--classes", "blue,green", "--bundle", bundle, "--output", output]
    words += ["--workers", "1", "--shard-frames", "10", "--quiet", "--json"]
    assert main(words) == 3
    assert json.loads(capsys.readouterr().out)["frames"] == 33
    files.rm_file(f"outputs/set/{part_name(0)}")
    assert main(["verify", output, "--quiet"]) == 1
    assert main(words) == 3
    capsys.readouterr()
    assert main(["verify", output, "--quiet", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [found[name] for name in ("frames", "missing", "duplicates", "unreadable")] == [
        33,
        0,
        0,
        1,
    ]
    with open_corpus(output) as corpus:
        row = next(row for row in corpus if row.source.endswith("film.avi") and row.frame == 7)
        assert int(corpus.picture(row)[0, 0, 0]) == 56
    assert b"2.png" in files.cat_file("outputs/set/errors.jsonl")
    files.pipe_file("inputs/1.png", png(1)[::-1])
    assert main(words) == 3
    assert "1.png' has changed since the data set was begun" in capsys.readouterr().err
    assert b"1.png" in files.cat_file("outputs/set/errors.jsonl")


def test_of_runs_that_begin_in_one_moment_one_alone_goes_on(
    files: s3fs.S3FileSystem, bundle: str, tmp_path: Path
) -> None:
    """All of them look before any of them writes; what they write differs by their shards."""
    clip = film(tmp_path / "film.avi", 30)
    with Bundle.open(bundle) as opened:
        words = parse_vocabulary("blue")
        job = Job("s3://outputs/race", bundle, words, opened.sha256)
    begun = [begin(job, Wanted((str(clip),), shard_frames=5 + n)) for n in range(6)]
    start = threading.Barrier(len(begun))

    def first(one: Begun) -> bool:
        start.wait()
        try:
            one.write()
        except BadInputError as error:
            assert "another run has begun" in str(error)
            return False
        return True

    with ThreadPoolExecutor(len(begun)) as pool:
        won = list(pool.map(first, begun))
    assert won.count(True) == 1
    assert files.cat_file("outputs/race/manifest.parquet") == begun[won.index(True)].new


def test_a_bucket_that_is_not_there_is_one_sentence(
    files: s3fs.S3FileSystem, bundle: str, capsys: pytest.CaptureFixture[str]
) -> None:
    files.pipe_file("inputs/one/0.png", png(0))
    words = [
        "s3://inputs/one",
        "--classes",
        "blue",
        "--bundle",
        bundle,
        "--workers",
        "1",
        "--quiet",
    ]
    assert main([*words, "--output", "s3://nowhere/set"]) == 2
    said = capsys.readouterr().err
    assert "s3://nowhere/set/" in said and said.count("\n") == 1
    assert not files.exists("nowhere")
