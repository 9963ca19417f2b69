"""From a data set of a hub of Hugging Face's into another, by a hub of this machine."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator

import fsspec
import pyarrow as pa
import pyarrow.parquet
import pytest
from corpus_helpers import film, png
from small_hub import SmallHub, small_hub

from dedos_deploy.cli.label import main
from dedos_deploy.corpus.beginning import Wanted, begin
from dedos_deploy.corpus.labelling import Job
from dedos_deploy.errors import SinkError
from dedos_deploy.vocabulary import parse_vocabulary

INPUTS, OUTPUT = "hf://datasets/someone/pictures", "hf://datasets/someone/labels/first"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallHub]:
    """Two data sets: pictures, of which one is damaged, a video, rows and samples; and an empty one."""
    folder, rows, samples = tmp_path_factory.mktemp("hub"), io.BytesIO(), io.BytesIO()
    pyarrow.parquet.write_table(pa.table({"image": [{"bytes": png(5), "path": "x"}] * 3}), rows)
    with tarfile.open(fileobj=samples, mode="w") as tar:
        member = tarfile.TarInfo("0.png")
        member.size = len(png(6))
        tar.addfile(member, io.BytesIO(png(6)))
    with small_hub() as found, pytest.MonkeyPatch.context() as patched:
        # Its package reads these once, when it is first imported.
        assert "huggingface_hub" not in sys.modules
        patched.setenv("HF_ENDPOINT", found.address)
        patched.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
        # A token of whoever runs the tests is nobody's business.
        patched.setenv("HF_HOME", str(folder))
        patched.delenv("HF_TOKEN", raising=False)
        found.files["someone/labels"] = {}
        found.files["someone/pictures"] = {
            "README.md": b"pictures",
            "1.png": png(1),
            "inner/2.png": png(2)[:40],
            "inner/clip.avi": film(folder / "clip.avi", 30).read_bytes(),
            "inner/rows.parquet": rows.getvalue(),
            "inner/samples.tar": samples.getvalue(),
        }
        yield found


def test_a_data_set_of_the_hub_is_labelled_into_another(
    hub: SmallHub, bundle: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [INPUTS, "--classes", "blue,green", "--bundle", bundle, "--output", OUTPUT]
    words += ["--workers", "1", "--quiet", "--json"]
    assert main(words) == 3, capsys.readouterr().err
    assert json.loads(capsys.readouterr().out)["frames"] == 35
    written = hub.files["someone/labels"]
    assert {"first/dataset.json", "first/manifest.parquet", "first/errors.jsonl"} < set(written)
    assert b"inner/2.png" in written["first/errors.jsonl"]
    parts = [content for name, content in written.items() if "/part-" in name]
    keys = [key for part in parts for key in _keys(part)]
    assert len(keys) == 35 and f"{INPUTS}/inner/clip.avi#29" in keys
    assert main(["verify", OUTPUT, "--quiet"]) == 0, capsys.readouterr().out
    hub.files["someone/pictures"]["1.png"] = png(1)[::-1]
    fsspec.filesystem("hf").invalidate_cache()  # as of another process
    capsys.readouterr()
    assert main(words) == 3
    said = capsys.readouterr()
    assert json.loads(said.out)["frames"] == 0
    assert f"{INPUTS}/1.png' has changed since the data set was begun" in said.err


def _keys(part: bytes) -> list[str]:
    return pyarrow.parquet.read_table(io.BytesIO(part))["key"].to_pylist()


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("hf://datasets/someone/none", "(datasets/someone/none (repository not found)"),
        (f"{INPUTS}/nothing", "names nothing that can be labelled"),
    ],
)
def test_what_is_not_there_is_one_sentence(
    hub: SmallHub, bundle: str, address: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [address, "--classes", "blue", "--bundle", bundle, "--output", OUTPUT + "2"]
    assert main([*words, "--quiet"]) == 2
    said = capsys.readouterr().err
    assert sentence in said and said.count("\n") == 1
    assert not any(name.startswith("first2") for name in hub.files["someone/labels"])


def test_a_repository_that_cannot_be_written_is_one_sentence(hub: SmallHub, bundle: str) -> None:
    job = Job("hf://datasets/someone/none/labels", bundle, parse_vocabulary("blue"), "0" * 64)
    begun = begin(job, Wanted((f"{INPUTS}/inner/clip.avi",)))
    with pytest.raises(SinkError, match=r"cannot be written \(.*repository not found"):
        begun.write()


WITHOUT_PACKAGE = """
import importlib, sys, fsspec
sys.modules["huggingface_hub"] = None
importlib.reload(sys.modules["fsspec.registry"])  # the package has entered itself there
from dedos_deploy.cli.label import main
sys.exit(main())
"""


def test_without_its_package_or_a_network_it_is_one_sentence(hub: SmallHub, bundle: str) -> None:
    words = [INPUTS, "--classes", "blue", "--bundle", bundle, "--output", OUTPUT + "3", "--quiet"]
    label = ["-m", "dedos_deploy.cli.label"]
    runs = {
        sentence: subprocess.Popen(
            [sys.executable, *program, *words],
            env={**os.environ, **more},
            stderr=subprocess.PIPE,
            text=True,
        )
        for sentence, program, more in (
            ("offline mode is enabled", label, {"HF_HUB_OFFLINE": "1"}),
            ("Connection refused", label, {"HF_ENDPOINT": "http://127.0.0.1:1"}),
            ("Install huggingface_hub to access HfFileSystem", ["-c", WITHOUT_PACKAGE], {}),
        )
    }
    for sentence, run in runs.items():
        _, said = run.communicate(timeout=150)
        assert (run.returncode, said.count("\n")) == (2, 1) and sentence in said, said
