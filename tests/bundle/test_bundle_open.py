"""Opening a bundle: folder, file and name; verification; unpacking, also by several at once."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dedos_deploy.bundle import Bundle
from dedos_deploy.bundle import bundle as bundle_module
from dedos_deploy.errors import BadBundleError, BadInputError, UnsupportedVersionError
from dedos_deploy.files import sha256_of_file


@pytest.mark.parametrize("kind", ["folder", "archive"])
def test_gives_out_what_was_written(
    kind: str, request: pytest.FixtureRequest, embeddings: np.ndarray
) -> None:
    with Bundle.open(request.getfixturevalue(kind)) as bundle:
        assert bundle.spec == bundle.manifest.spec and bundle.spec.score_hw == (60, 80)
        assert bundle.path("text_encoder.onnx").read_bytes() == b"text tower"
        words, rows = bundle.vocabulary("base")
        assert words == bundle.base_words == ("road", "car", "tree")
        np.testing.assert_array_equal(rows, embeddings)
        np.testing.assert_array_equal(bundle.known_embeddings()["car"], embeddings[1])


def test_says_what_it_does_not_hold(folder: Path) -> None:
    bundle = Bundle.open(folder)
    with pytest.raises(BadBundleError, match="no file 'modle.onnx', did you mean 'model.onnx'"):
        bundle.path("modle.onnx")
    with pytest.raises(BadBundleError, match="no vocabulary 'coco'; it holds base"):
        bundle.vocabulary("coco")


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="does not exist; give a bundle folder, a .dedos file"):
        Bundle.open(tmp_path / "none")


def test_the_name_demo_is_the_embedded_bundle(
    archive: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(bundle_module, "_DEMO_FILE", archive)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()
    assert Bundle.open("demo").name == "demo"
    with pytest.raises(BadBundleError, match="'./demo'.* 'manifest.json' is missing"):
        Bundle.open("./demo")
    monkeypatch.setattr(bundle_module, "_DEMO_FILE", tmp_path / "none.dedos")
    with pytest.raises(BadBundleError, match="no embedded demo bundle"):
        Bundle.open("demo")


def test_names_the_first_bad_file(folder: Path) -> None:
    (folder / "stray.txt").write_text("x")
    with pytest.raises(BadBundleError, match="'stray.txt' is not listed in manifest.json"):
        Bundle.open(folder)
    (folder / "stray.txt").unlink()
    (folder / "report.json").write_text("{}")
    with pytest.raises(BadBundleError, match="'report.json' was changed or damaged"):
        Bundle.open(folder)
    (folder / "report.json").unlink()
    with pytest.raises(BadBundleError, match="'report.json' is missing"):
        Bundle.open(folder)
    (folder / "report.json").mkdir()
    with pytest.raises(BadBundleError, match="'report.json' is not a regular file"):
        Bundle.open(folder)


def test_the_engine_cache_may_grow(folder: Path) -> None:
    (folder / "engines" / "sm89").mkdir()
    (folder / "engines" / "sm89" / "built.engine").write_bytes(b"1")
    assert Bundle.open(folder).folder == folder


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_refuses_links_that_lead_out(folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.json"
    os.replace(folder / "report.json", outside)
    (folder / "report.json").symlink_to(outside)
    with pytest.raises(BadBundleError, match="'report.json' is a link that leads out"):
        Bundle.open(folder)
    (folder / "report.json").unlink()
    (folder / "report.json").symlink_to("report.json")
    with pytest.raises(BadBundleError, match="'report.json' cannot be read"):
        Bundle.open(folder)


def test_without_verify_large_files_are_not_hashed(
    tmp_path: Path, write: Callable[..., Path]
) -> None:
    folder = write(tmp_path / "large", model=bytes(2 << 20))
    model = folder / "model.onnx"
    model.write_bytes(b"\1" + bytes((2 << 20) - 1))
    assert Bundle.open(folder, verify=False)
    with pytest.raises(BadBundleError, match="'model.onnx' was changed"):
        Bundle.open(folder)
    (folder / "tokenizer.json").write_text("[]")
    with pytest.raises(BadBundleError, match="'tokenizer.json' was changed"):
        Bundle.open(folder, verify=False)


def test_a_file_is_unpacked_once_and_heals(
    archive: Path, cache_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = Bundle.open(archive)
    inode = first.path("model.onnx").stat().st_ino
    assert first.folder.parent == cache_folder / "bundles"
    assert Bundle.open(archive).path("model.onnx").stat().st_ino == inode
    first.path("model.onnx").write_bytes(b"bit rot")
    with caplog.at_level(logging.WARNING):
        healed = Bundle.open(archive)
    assert len(healed.path("model.onnx").read_bytes()) == 2048
    assert "is damaged, unpacking again" in caplog.text
    assert [path.name for path in (cache_folder / "bundles").iterdir()] == [healed.folder.name]


def test_without_a_cache_a_temporary_folder_is_used(
    archive: Path, cache_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache_folder.write_text("in the way")
    with caplog.at_level(logging.WARNING), Bundle.open(archive) as bundle:
        model = bundle.path("model.onnx")
        assert model.is_file()
    assert "cannot be written" in caplog.text and "DEDOS_CACHE_DIR" in caplog.text
    assert not model.exists()
    bundle.close()


def test_without_any_place_to_unpack(
    archive: Path, cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache_folder.write_text("in the way")
    monkeypatch.setattr("tempfile.tempdir", str(cache_folder / "none"))
    with pytest.raises(BadInputError, match="cannot be unpacked .*set DEDOS_CACHE_DIR"):
        Bundle.open(archive)


def test_several_processes_unpack_at_once(archive: Path, cache_folder: Path) -> None:
    script = (
        "import sys; from dedos_deploy.bundle import Bundle\n"
        "sys.stdin.readline()\n"
        "print(len(Bundle.open(sys.argv[1]).path('model.onnx').read_bytes()))"
    )
    command = [sys.executable, "-c", script, str(archive)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, **pipes) for _ in range(4)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    assert [process.communicate(timeout=60)[0].strip() for process in processes] == ["2048"] * 4
    assert len(list((cache_folder / "bundles").iterdir())) == 1


def repacked(archive: Path, edit: Callable[[zipfile.ZipFile], None]) -> Path:
    with zipfile.ZipFile(archive, "a") as file:
        edit(file)
    return archive


def linked() -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("link")
    info.external_attr = 0o120777 << 16
    return info


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda file: file.writestr("../evil", b"x"), "'../evil' has a name that a bundle may not"),
        (lambda file: file.writestr("/evil", b"x"), "'/evil' has a name"),
        (lambda file: file.writestr("a\\evil", b"x"), "evil' has a name|'a/evil' is not listed"),
        (lambda file: file.writestr("model.onnx", b"x"), "'model.onnx' comes twice"),
        (lambda file: file.writestr("MODEL.onnx", b"x"), r"comes twice \(as 'model.onnx'\)"),
        (lambda file: file.writestr("model.onnx/x", b"x"), "lies in 'model.onnx'"),
        (lambda file: file.writestr(linked(), b"/etc/passwd"), "'link' is not a regular file"),
        (lambda file: file.writestr("stray", b"x"), "'stray' is not listed"),
        (lambda file: file.writestr("lzma", b"x", zipfile.ZIP_LZMA), "neither stored nor deflated"),
        (
            lambda file: file.writestr("bomb", bytes(80 << 20), zipfile.ZIP_DEFLATED),
            "would unpack from .* most of it 'bomb'",
        ),
    ],
)
def test_refuses_unsafe_archives(
    archive: Path, cache_folder: Path, edit: Callable[[zipfile.ZipFile], None], message: str
) -> None:
    with pytest.raises(BadBundleError, match=message):
        Bundle.open(repacked(archive, edit))
    assert not cache_folder.exists() or not list((cache_folder / "bundles").iterdir())


def test_refuses_an_empty_name(archive: Path) -> None:
    repacked(archive, lambda file: file.writestr("@@", b""))
    archive.write_bytes(archive.read_bytes().replace(b"@@", b"\0@"))  # names end at a NUL
    with pytest.raises(BadBundleError, match="has a name that a bundle may not use"):
        Bundle.open(archive)


def test_zipped_by_hand_with_folder_entries(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "byhand.dedos"
    with zipfile.ZipFile(path, "w") as file:
        for entry in sorted(folder.rglob("*")):
            file.write(entry, entry.relative_to(folder))
    assert Bundle.open(path).manifest == Bundle.open(folder).manifest


def test_a_newer_bundle_asks_for_an_upgrade(folder: Path) -> None:
    values = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**values, "format_version": 2}))
    with pytest.raises(UnsupportedVersionError, match="reads up to 1; install a newer "):
        Bundle.open(folder)


def test_a_vocabulary_of_another_model_is_named(folder: Path) -> None:
    path = folder / "vocabularies" / "base.safetensors"
    values = json.loads((folder / "manifest.json").read_text())
    path.write_bytes(b"not safetensors")
    values["files"]["vocabularies/base.safetensors"] = sha256_of_file(path)
    (folder / "manifest.json").write_text(json.dumps(values))
    with pytest.raises(BadBundleError, match="file 'vocabularies/base.safetensors': .*damaged"):
        Bundle.open(folder).vocabulary("base")


def test_opening_needs_neither_numpy_nor_torch(archive: Path) -> None:
    script = (
        "import sys; from dedos_deploy.bundle import Bundle; Bundle.open(sys.argv[1]); "
        "print(sorted({'numpy', 'torch', 'onnxruntime'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", script, str(archive)]
    assert subprocess.run(command, check=True, capture_output=True).stdout.split() == [b"[]"]
