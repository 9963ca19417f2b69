"""Models of Triton that dedos-export writes: all of it or nothing, and one sentence where it cannot."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dedos_deploy import Segmenter, export
from dedos_deploy.bundle import Bundle
from dedos_deploy.cli import export as command
from dedos_deploy.cli.export import main
from dedos_deploy.export import triton
from dedos_deploy.export.triton_options import TritonOptions
from dedos_deploy.vocabulary import parse_vocabulary, vocabulary_from_file
from dedos_deploy.vocabulary_file import save_vocabulary


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of a user with a bundle, a model of it, and things in the way."""
    monkeypatch.chdir(tmp_path)
    assert main(["--bundle", "demo", "--triton", "models", "--triton-classes", "road"]) == 0
    shutil.copytree("models/demo/1/bundle", "street.dedos.d")
    for name in ("notes/demo", "models/other"):
        Path(name).mkdir(parents=True)
        Path(name, "note.txt").touch()
    Path("file").touch()
    return tmp_path


def test_a_bundle_becomes_a_model(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    line = ["--bundle", "street.dedos.d", "--triton", "new", "--triton-name", "street", "--json"]
    assert main(line) == 0
    model = folder / "new/street"
    assert json.loads(capsys.readouterr().out) == {"triton": str(model)}
    assert {path.name for path in (folder / "new").iterdir()} == {"street"}
    assert {path.name for path in (model / "1").iterdir()} == {"bundle", "classes.txt", "model.py"}
    with Bundle.open(model / "1/bundle") as bundle, Bundle.open("demo") as demo:
        assert bundle.manifest == demo.manifest
        assert vocabulary_from_file(model / "1/classes.txt").names == demo.base_words
    text = (model / "config.pbtxt").read_text()
    assert 'backend: "python"\nmax_batch_size: 0\n' in text
    assert "kind: KIND_CPU\n  count: 1\n}" in text and text.count("optional: true") == 3
    source = (model / "1/model.py").read_text()
    assert "import TritonPythonModel" in source and len(source.splitlines()) < 10


def test_instances_are_those_of_the_options(folder: Path) -> None:
    line = "--bundle demo --triton models --overwrite --triton-classes road --triton-instances 3"
    assert main([*line.split(), "--triton-engine", "cuda", "--triton-gpus", "0,2"]) == 0
    text = (folder / "models/demo/config.pbtxt").read_text()
    assert "instance_group {\n  kind: KIND_GPU\n  count: 3\n  gpus: [0, 2]\n}" in text
    assert 'key: "engine"\n  value { string_value: "cuda" }' in text
    assert main([*line.split(), "--triton-background", "none"]) == 0
    text = (folder / "models/demo/config.pbtxt").read_text()
    assert "kind: KIND_CPU\n  count: 3\n}" in text and 'string_value: "none"' in text


def test_words_of_every_spelling_come_back(folder: Path) -> None:
    words = r"car|automobile@0.3#3f63ff,sky\, blue,c\#,a\@b"
    line = ["--bundle", "demo", "--triton", "models", "--overwrite", "--triton-classes", words]
    assert main(line) == 0
    found = vocabulary_from_file(folder / "models/demo/1/classes.txt")
    assert found.entries == parse_vocabulary(words).entries


def tuned_words(path: Path, *, model_sha256: str) -> np.ndarray:
    with Bundle.open("demo") as bundle:
        words, rows = bundle.vocabulary(str(bundle.manifest.base_vocabulary))
        metadata = {
            "model_sha256": model_sha256 or str(bundle.manifest.checkpoint_sha256),
            "entries": json.dumps(["my road@0.01"]),
            "tuning": json.dumps({"frames": 1}),
        }
    row = rows[words.index("road")]
    save_vocabulary(path, ["my road"], row[None], metadata)
    return row


def test_tuned_words_travel_with_the_model(folder: Path) -> None:
    tuned_words(folder / "mine.words", model_sha256="")
    line = [
        "--bundle",
        "demo",
        "--triton",
        "models",
        "--overwrite",
        "--triton-classes",
        "mine.words",
    ]
    assert main(line) == 0
    version = folder / "models/demo/1"
    assert (version / "classes.words").read_bytes() == (folder / "mine.words").read_bytes()
    assert not (version / "classes.txt").exists()
    frame = np.random.default_rng(1).integers(0, 256, (48, 64, 3), np.uint8)
    with (
        Segmenter.load(version / "bundle", classes=version / "classes.words", threads=1) as mine,
        Segmenter.load("demo", classes="road@0.01", threads=1) as plain,
    ):
        assert mine.classes == ("my road",)
        np.testing.assert_array_equal(mine.segment(frame).label_map, plain.segment(frame).label_map)


def test_what_is_exported_becomes_a_model_too(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text, parity = (
        SimpleNamespace(min_cosine=1.0),
        SimpleNamespace(
            agreement=1.0, min_agreement=0.999, max_abs=0.0, frames=1, frames_from="somewhere"
        ),
    )
    report = SimpleNamespace(
        path=folder / "street.dedos.d", size=1, parity=parity, text=text, int8=None, engine=None
    )
    report.batches, report.trust, report.to_dict = (), None, dict
    monkeypatch.setattr(export, "export_bundle", lambda *_, **__: report)
    monkeypatch.setattr(command, "_words_to_try", lambda path: ("car",))
    line = "--preset nano --output street.dedos.d --overwrite --triton models --triton-name street"
    capsys.readouterr()
    assert main(line.split()) == 0
    said = capsys.readouterr().out.splitlines()[-1]
    assert (
        said == f"serve it: tritonserver --model-repository={folder / 'models'}   (model 'street')"
    )
    assert (folder / "models/street/1/bundle/manifest.json").is_file()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--bundle demo", "--bundle is what --triton REPO is written from; give both"),
        ("--triton-name a", "--triton-name goes with --triton REPO; give both"),
        ("--bundle demo --triton models", "demo' already exists; use --overwrite .*--triton-name"),
        ("--bundle nowhere --triton models", "bundle 'nowhere' does not exist"),
        ("--bundle demo --triton no/models", "no' does not exist; create it first"),
        ("--bundle demo --triton file", "file' is a file; give a folder for models"),
        (
            "--bundle demo --triton models/demo",
            "models/demo' is a model, whose folder is .*models'",
        ),
        ("--bundle demo --triton notes --overwrite", "demo' is not a model, so it is not replaced"),
        (
            "--bundle demo --triton models --triton-name ../x",
            "a model cannot be called '../x'; use",
        ),
        (
            "--bundle demo --triton m --triton-instances 0",
            "runs 1 to 64 instances of a model, not 0",
        ),
        (
            "--bundle demo --triton m --triton-gpus 0",
            "the engine 'cpu' uses none; choose one of cuda",
        ),
        (
            "--bundle demo --triton m --triton-engine rtx",
            "'cpu', whose graph only ONNX Runtime reads",
        ),
        ("--bundle demo --triton m --triton-classes a,a", "'a' occurs twice"),
        (
            "--bundle demo --triton m --triton-classes none.txt",
            "class file 'none.txt' does not exist",
        ),
        ("--bundle demo --triton m --triton-classes o.words", "tuned on another model"),
        (
            "--bundle demo --triton m --preset nano",
            "demo is there already, and --preset is for one",
        ),
        ("--bundle demo --triton m --output x", "and --output is for one that is made; leave one"),
        ("--bundle models/demo/1/bundle --triton models --overwrite --triton-name demo", "be lost"),
        ("--preset nano --triton models --triton-name demo", "demo' already exists"),
    ],
)
def test_user_errors_are_one_sentence(
    folder: Path, capsys: pytest.CaptureFixture[str], line: str, message: str
) -> None:
    tuned_words(folder / "o.words", model_sha256="0" * 64)
    before = sorted(folder.rglob("*"))
    capsys.readouterr()
    assert main(line.split()) == 2
    captured = capsys.readouterr()
    (error,) = [text for text in captured.err.splitlines() if "error:" in text]
    assert re.search(message, error), error
    assert not captured.out and sorted(folder.rglob("*")) == before


def test_nothing_is_left_where_writing_fails(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    before = sorted(folder.rglob("*"))
    monkeypatch.setattr("dedos_deploy.export.triton.sync_tree", full)
    line = "--bundle demo --triton models --overwrite --triton-classes sky"
    assert main(line.split()) == 2
    assert "models/demo' cannot be written (No space left on device)" in capsys.readouterr().err
    assert sorted(folder.rglob("*")) == before
    assert (folder / "models/demo/1/classes.txt").read_text() == "road\n"


@pytest.mark.parametrize("repository", ["new", "models"])
def test_a_repository_holds_nothing_but_models_at_any_time(
    folder: Path, monkeypatch: pytest.MonkeyPatch, repository: str
) -> None:
    """Triton does not start with a folder in its repository that is no model."""
    seen: list[set[str]] = []

    def seen_by(function: Callable[..., None]) -> Callable[..., None]:
        def wrapped(*given: Any, **more: Any) -> None:
            seen.append({path.name for path in folder.glob(f"{repository}/*")})
            function(*given, **more)

        return wrapped

    monkeypatch.setattr(triton, "sync_tree", seen_by(triton.sync_tree))
    monkeypatch.setattr(shutil, "rmtree", seen_by(shutil.rmtree))
    before = {path.name for path in folder.iterdir()}
    assert main(["--bundle", "demo", "--triton", repository, "--overwrite"]) == 0
    assert all(names <= {"demo", "other"} for names in seen) and len(seen) > 1
    assert {path.name for path in folder.iterdir()} == before | {repository}


def test_a_repository_is_not_made_where_writing_fails(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(triton, "sync_tree", full)
    assert main(["--bundle", "demo", "--triton", "new"]) == 2
    assert not (folder / "new").exists()


def test_a_folder_above_that_cannot_be_written_is_not_needed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    before = {path.name for path in (folder / "models").iterdir()}
    assert main(["--bundle", "demo", "--triton", "models", "--overwrite"]) == 0
    assert {path.name for path in (folder / "models").iterdir()} == before


def test_a_model_is_called_as_its_bundle() -> None:
    names = {
        "out/my street.dedos": "my-street",
        "nano-fp32-cpu.dedos": "nano-fp32-cpu",
        "a/b.v2/": "b.v2",
        "äö": "model",
    }
    for bundle, name in names.items():
        assert TritonOptions("models").name_for(bundle) == name
