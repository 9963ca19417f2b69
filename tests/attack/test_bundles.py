"""Bundles and their cache under attack: poisoned copies, swaps, lying archives, endless manifests."""

from __future__ import annotations

import json
import os
import shutil
import stat
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path += [str(Path(__file__).parents[1] / "runtime")]

from tiny_bundle import write_tiny_bundle  # noqa: E402

from dedos_deploy.bundle import Bundle, BundleWriter, _unpack  # noqa: E402
from dedos_deploy.bundle import bundle as bundle_module  # noqa: E402
from dedos_deploy.errors import BadBundleError, BadInputError, DedosError  # noqa: E402
from dedos_deploy.files import (  # noqa: E402
    Temporary,
    open_regular,
    read_regular,
    sha256_of_file,
)

POSIX = pytest.mark.skipif(os.name == "nt", reason="owners and modes of POSIX")
EVIL = "EVIL"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("DEDOS_CACHE_DIR", str(folder))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tiny_bundle(tmp_path / "tiny")


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return write_tiny_bundle(tmp_path / "good.dedos")


def edit_manifest(folder: Path, **changes: Any) -> None:
    values = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(values | changes))


def evil_copy(archive: Path, target: Path) -> Path:
    """A folder that agrees with itself, but is not the bundle."""
    with zipfile.ZipFile(archive) as file:
        file.extractall(target)
    edit_manifest(target, licence=EVIL)
    return target


def evil_archive(archive: Path, tmp_path: Path) -> bytes:
    source = evil_copy(archive, tmp_path / "evil")
    packed = tmp_path / "evil.dedos"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(source.rglob("*")):
            file.write(path, path.relative_to(source))
    return packed.read_bytes()


# The cache


@pytest.mark.parametrize("key", ["archive", "manifest"])
@pytest.mark.parametrize("how", ["plain", "writable", "link", "foreign", "pipe"])
@POSIX
def test_a_poisoned_copy_is_never_used(
    key: str, how: str, archive: Path, cache: Path, tmp_path: Path
) -> None:
    name = Bundle.open(archive).folder.name if key == "manifest" else sha256_of_file(archive)
    entry = cache / "bundles" / name
    shutil.rmtree(entry, ignore_errors=True)
    evil_copy(archive, entry)
    if how == "writable":
        entry.chmod(0o777)
    elif how == "link":
        shutil.move(entry, tmp_path / "target")
        entry.symlink_to(tmp_path / "target")
    elif how == "foreign":
        if os.geteuid() != 0:
            pytest.skip("only root can give a folder away")
        os.chown(entry, 65534, 65534)
    elif how == "pipe":
        (entry / "model.onnx").unlink()
        os.mkfifo(entry / "model.onnx")
    with Bundle.open(archive) as bundle:
        assert bundle.manifest.licence == "Apache-2.0"
        status = bundle.folder.lstat()
        assert stat.S_ISDIR(status.st_mode) and stat.S_IMODE(status.st_mode) == 0o700
        assert status.st_uid == os.geteuid()


@POSIX
def test_a_cache_of_somebody_else_is_left_alone(
    archive: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder away")
    evil_copy(archive, cache / "bundles" / Bundle.open(archive).folder.name)
    os.chown(cache / "bundles", 65534, 65534)
    with Bundle.open(archive) as bundle:
        assert bundle.manifest.licence == "Apache-2.0"
        assert not bundle.folder.is_relative_to(cache)
    assert "it belongs to another user" in caplog.text


@POSIX
def test_what_is_unpacked_is_private_whatever_the_umask(archive: Path, cache: Path) -> None:
    (cache / "bundles").mkdir(parents=True)
    (cache / "bundles").chmod(0o777)  # as an earlier release left it
    before = os.umask(0)
    try:
        folder = Bundle.open(archive).folder
    finally:
        os.umask(before)
    for path in [folder.parent, folder, *folder.rglob("*")]:
        assert path.stat().st_mode & 0o077 == 0, path
    inode = (folder / "model.onnx").stat().st_ino
    assert (Bundle.open(archive).folder / "model.onnx").stat().st_ino == inode
    for place, mode in ((folder / "model.onnx", 0o660), (folder / "vocabularies", 0o777)):
        place.chmod(mode)
        again = Bundle.open(archive).folder
        assert again.stat().st_mode & 0o077 == place.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("step", ["_archive", "_unpack_to_cache"])
def test_a_swap_while_it_is_read_never_ends_under_the_name_of_another(
    step: str, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evil, shared = evil_archive(archive, tmp_path), tmp_path / "shared.dedos"
    shutil.copy(archive, shared)
    genuine = getattr(_unpack, step)

    def swapped(*args: Any) -> Any:
        with shared.open("rb+") as stream:  # in place: the open file changes under the reader
            stream.write(evil)
            stream.truncate()
        return genuine(*args)

    with monkeypatch.context() as patched:
        patched.setattr(_unpack, step, swapped)
        try:
            Bundle.open(shared).close()
        except BadBundleError as error:
            assert "shared.dedos" in str(error)
    assert Bundle.open(archive).manifest.licence == "Apache-2.0"


@POSIX
def test_copies_of_earlier_releases_are_removed_once_they_are_old(
    archive: Path, cache: Path
) -> None:
    bundles = cache / "bundles"
    old, young, alien = (bundles / (letter * 64) for letter in "abc")
    for path in (old, young):
        evil_copy(archive, path)
    alien.mkdir()
    (alien / "manifest.json").write_text("not ours")
    for path in (old, alien):
        os.utime(path, (0, 0))
    kept = Bundle.open(archive).folder
    assert set(bundles.iterdir()) == {young, alien, kept}


@POSIX
def test_what_a_killed_reader_left_of_unpacking_is_removed_by_the_next(
    archive: Path, cache: Path
) -> None:
    cached = Bundle.open(archive).folder
    shutil.rmtree(cached)
    (left := cached.with_name(f".{cached.name}.0123abcd.dedos.tmp")).mkdir()
    (left / "model.onnx").write_bytes(b"half of it")
    another = Temporary(cached, folder=True, private=True)
    assert Bundle.open(archive).folder == cached
    assert set((cache / "bundles").iterdir()) == {cached, another.path}
    another.discard()


def test_read_gives_the_bytes_that_were_checked(folder: Path) -> None:
    bundle = Bundle.open(folder)
    assert bundle.read("tokenizer.json") == (folder / "tokenizer.json").read_bytes()
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(BadBundleError, match="'tokenizer.json' was changed"):
        bundle.read("tokenizer.json")
    (folder / "vocabularies" / "base.safetensors").write_bytes(b"other")
    with pytest.raises(BadBundleError, match="base.safetensors' was changed"):
        bundle.known_embeddings()
    with pytest.raises(BadBundleError, match="holds no file '../tokenizer.json'"):
        bundle.read("../tokenizer.json")


@POSIX
def test_a_folder_that_everybody_may_change_is_said_once(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "model.onnx").chmod(0o666)
    Bundle.open(folder)
    assert caplog.text.count("everybody on this machine may change") == 1
    caplog.clear()
    (folder / "model.onnx").chmod(0o644)
    Bundle.open(folder)
    assert caplog.text == ""


# Archives that lie


def patched_directory(archive: Path, name: str, offset: int, value: int) -> None:
    """Overwrite four bytes of a member's entry in the directory at the end of an archive."""
    data = bytearray(archive.read_bytes())
    at = data.rindex(b"PK\1\2", 0, data.rindex(name.encode()))
    data[at + offset : at + offset + 4] = struct.pack("<I", value)
    archive.write_bytes(bytes(data))


def test_the_real_size_of_the_file_counts_not_what_it_claims(archive: Path) -> None:
    with zipfile.ZipFile(archive, "a", zipfile.ZIP_DEFLATED) as file:
        file.writestr("bomb", bytes(80 << 20))
    patched_directory(archive, "bomb", 20, 1 << 30)  # its compressed size
    with pytest.raises(BadBundleError, match=r"would unpack from \d{5,6} to \d+ bytes"):
        Bundle.open(archive)


def test_members_that_share_bytes_are_refused(archive: Path) -> None:
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr("one", b"x" * 1000)
        file.writestr("two", b"x" * 1000)
        start = file.getinfo("one").header_offset
    patched_directory(archive, "two", 42, start)  # where its own header lies
    with pytest.raises(BadBundleError, match="overlaps what follows it"):
        Bundle.open(archive)


def test_a_directory_without_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "many.dedos"
    with zipfile.ZipFile(path, "w") as file:
        for number in range(60_000):
            file.writestr(f"{number:0100}", b"")
    with pytest.raises(BadBundleError, match="its directory is too long|more than 4096"):
        Bundle.open(path)


# Manifests that cost


@pytest.mark.timeout(60)
def test_a_key_given_twice_among_very_many_is_found_at_once(folder: Path) -> None:
    keys = [f'"{number}": 1' for number in range(400_000)]
    (folder / "manifest.json").write_text("{" + ", ".join([*keys, keys[-1]]) + "}")
    with pytest.raises(BadBundleError, match="has the key '399999' twice"):
        Bundle.open(folder)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"files": {f"f{n}": "0" * 64 for n in range(90_000)}}, "lists 90000 files, more than"),
        ({"templates": ["{}"] * 100_000}, "'templates' holds 100000, more than 256"),
        ({"templates": ["{}" + "x" * 9000]}, "has more than 500 characters"),
        ({"x" * 7_000_000: 1}, "unknown key 'xxx"),
        ({f"presett{n}": n for n in range(90_000)}, "unknown key 'presett0', did you mean"),
    ],
)
def test_manifests_that_make_work_are_refused(
    changes: dict[str, Any], message: str, folder: Path
) -> None:
    edit_manifest(folder, **changes)
    with pytest.raises(BadBundleError, match=message) as caught:
        Bundle.open(folder)
    assert len(str(caught.value)) < 600


@pytest.mark.timeout(60)
def test_a_deep_manifest_is_refused(folder: Path) -> None:
    (folder / "manifest.json").write_text('{"files":' + "[" * 1_000_000)
    with pytest.raises(BadBundleError, match=r"nested too deeply|is not valid JSON"):
        Bundle.open(folder)


# What is no file


@POSIX
@pytest.mark.timeout(60)
def test_pipes_devices_and_sockets_are_no_bundles(folder: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.dedos"
    os.mkfifo(pipe)
    with pytest.raises(BadBundleError, match="it is a named pipe, not a regular file"):
        Bundle.open(pipe)
    for device in ("/dev/zero", "/dev/null"):
        with pytest.raises(BadBundleError, match="it is a device, not a regular file"):
            Bundle.open(device)
    with BundleWriter(tmp_path / "new") as writer:
        with pytest.raises(BadInputError, match="it is a named pipe, not a regular file"):
            writer.add_file("model.onnx", pipe)
    for name in ("model.onnx", "manifest.json"):
        (folder / name).rename(tmp_path / "kept")
        os.mkfifo(folder / name)
        with pytest.raises(BadBundleError, match=f"'{name}' is not a regular file"):
            Bundle.open(folder)
        (folder / name).unlink()
        (tmp_path / "kept").rename(folder / name)
    bundle = Bundle.open(folder)
    (folder / "tokenizer.json").unlink()
    os.mkfifo(folder / "tokenizer.json")
    with pytest.raises(BadBundleError, match="'tokenizer.json' cannot be read .*named pipe"):
        bundle.read("tokenizer.json")


@POSIX
def test_a_name_that_changes_to_a_pipe_after_it_was_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setattr("dedos_deploy.files.check_regular", lambda path: None)
    with pytest.raises(OSError, match="it is a named pipe, not a regular file"):
        open_regular(tmp_path / "pipe")


def test_more_than_the_limit_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    assert read_regular(tmp_path / "file", limit=5) == b"12345"
    with pytest.raises(OSError, match="it has more than 4 bytes"):
        read_regular(tmp_path / "file", limit=4)


@POSIX
@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "read",
    [
        pytest.param(lambda p: _label_files().read_classes(p), id="classes"),
        pytest.param(lambda p: _pictures().open_picture(p), id="image"),
        pytest.param(lambda p: _label_files().read_label_values(p), id="labels"),
        pytest.param(lambda p: _calibration_table().load(p), id="calibration table"),
    ],
)
def test_pipes_are_no_files_of_data(read: Callable[[Path], object], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(DedosError, match=r"pipe\.png"):
        read(tmp_path / "pipe.png")


def _label_files() -> Any:
    from dedos_deploy import label_files

    return label_files


def _pictures() -> Any:
    from dedos_deploy import pictures

    return pictures


def _calibration_table() -> Any:
    pytest.importorskip("onnx")
    from dedos_deploy.calib.table import CalibrationTable

    return CalibrationTable


def test_the_embedded_bundle_is_not_poisoned_by_its_archives_hash(cache: Path) -> None:
    demo = bundle_module._DEMO_FILE
    if not demo.is_file():
        pytest.skip("a checkout without the embedded bundle")
    evil_copy(demo, cache / "bundles" / sha256_of_file(demo))
    with Bundle.open("demo") as bundle:
        assert bundle.manifest.licence != EVIL


# Tokenizers


def split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Removed", "invert": True}


def replacing(text: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"String": "a"}, "content": text}


BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
WORD = {"Sequence": {"id": "A", "type_id": 0}}
STEPS: dict[str, dict[str, Any]] = {
    **{
        f"pattern {pattern}": {
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split(pattern), BYTES]}
        }
        for pattern in ("(a+)+$", "(a*)*b", ".*")
    },
    "a pattern alone": {"pre_tokenizer": split("(a+)+$")},
    # Each of these would take more memory than there is, for which the library ends the process.
    "replacements": {"normalizer": {"type": "Sequence", "normalizers": [replacing("a" * 20)] * 9}},
    "one replacement": {"normalizer": replacing("sky")},
    "a prefix": {"normalizer": {"type": "Prepend", "prepend": "x" * 1_000_000}},
    "bytes of bytes": {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [BYTES] * 40}},
    "repetition": {
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [WORD] * 1_000_000,
            "pair": [],
            "special_tokens": {},
        }
    },
    "processors": {"post_processor": {"type": "Sequence", "processors": [BYTES] * 1000}},
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", STEPS)
def test_steps_of_a_tokenizer_that_are_not_clips(name: str, folder: Path) -> None:
    from dedos_deploy.text.tokenizer import Tokenizer

    values = json.loads((folder / "tokenizer.json").read_text()) | STEPS[name]
    with pytest.raises(BadBundleError, match=r"tokenizer\.json is damaged .its .* is none that"):
        Tokenizer(json.dumps(values).encode(), 8)


@pytest.mark.parametrize(
    "change",
    [
        {"type": "WordLevel", "unk_token": "a"},
        {"dropout": 0.5},
        {"end_of_word_suffix": "x" * 1_000_000},
    ],
)
def test_models_of_a_tokenizer_that_are_not_clips(change: dict[str, Any], folder: Path) -> None:
    from dedos_deploy.text.tokenizer import Tokenizer

    values = json.loads((folder / "tokenizer.json").read_text())
    values["model"] |= change
    with pytest.raises(BadBundleError, match=r"tokenizer\.json is damaged"):
        Tokenizer(json.dumps(values).encode(), 8)


@pytest.mark.timeout(60)
def test_a_word_given_twice_among_very_many_is_found_at_once(tmp_path: Path) -> None:
    import numpy as np
    from safetensors.numpy import save

    from dedos_deploy.vocabulary_file import load_vocabulary

    words = [str(number) for number in range(200_000)]
    words[-1] = words[-2]
    rows = np.ones((len(words), 1), np.float32)
    metadata = {"format": "dedos-vocabulary", "version": "1", "words": json.dumps(words)}
    with pytest.raises(BadBundleError, match="'199998' occurs twice"):
        load_vocabulary(save({"embeddings": rows}, metadata=metadata))
