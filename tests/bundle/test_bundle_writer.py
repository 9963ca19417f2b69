"""Writing a bundle: it appears whole or not at all, and never replaces what it should not."""

from __future__ import annotations

import os
import resource
import signal
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dedos_deploy.bundle import Bundle, BundleWriter, Manifest
from dedos_deploy.errors import BadBundleError, BadInputError, SinkError
from dedos_deploy.files import sweep

DESTS = ("new", "new.dedos")


@contextmanager
def files_limited_to(size: int) -> Iterator[None]:
    """Let the system refuse to grow any file beyond `size` bytes, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("name", DESTS)
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interruption_leaves_nothing(
    tmp_path: Path, name: str, error: type[BaseException]
) -> None:
    with pytest.raises(error), BundleWriter(tmp_path / name) as writer:
        writer.add_bytes("model.onnx", b"x")
        raise error
    assert listing(tmp_path) == []


@pytest.mark.parametrize("name", DESTS)
def test_leaving_without_commit_leaves_nothing(tmp_path: Path, name: str) -> None:
    with BundleWriter(tmp_path / name) as writer:
        writer.add_bytes("engines/a/b", b"x")
    assert listing(tmp_path) == []


@pytest.mark.parametrize("name", DESTS)
def test_a_full_disk_leaves_nothing(tmp_path: Path, name: str, write: Callable[..., Path]) -> None:
    with pytest.raises(SinkError, match=f"{name}' cannot be written .*nothing was left behind"):
        with files_limited_to(1 << 16):
            write(tmp_path / name, model=bytes(1 << 17))
    assert listing(tmp_path) == []


def test_a_disk_that_fills_up_while_packing_leaves_the_old_one(
    tmp_path: Path, write: Callable[..., Path]
) -> None:
    old = write(tmp_path / "new.dedos").read_bytes()
    noise = np.random.default_rng(0).bytes(1 << 16)
    with pytest.raises(SinkError, match="cannot be written"), files_limited_to(1 << 16):
        write(tmp_path / "new.dedos", overwrite=True, model=noise)
    assert (tmp_path / "new.dedos").read_bytes() == old and listing(tmp_path) == ["new.dedos"]


@pytest.mark.parametrize("name", DESTS)
def test_replaces_only_when_asked(tmp_path: Path, name: str, write: Callable[..., Path]) -> None:
    dest = write(tmp_path / name)
    with pytest.raises(BadInputError, match="already exists; use --overwrite"):
        write(dest)
    write(dest, overwrite=True, model=b"second")
    with Bundle.open(dest) as bundle:
        assert bundle.path("model.onnx").read_bytes() == b"second"
    assert listing(tmp_path) == sorted([name, "cache"] if name.endswith(".dedos") else [name])


@pytest.mark.parametrize("name", DESTS)
def test_the_old_one_stays_until_the_new_one_is_complete(
    tmp_path: Path, name: str, write: Callable[..., Path]
) -> None:
    dest = write(tmp_path / name, model=b"first")
    with pytest.raises(KeyboardInterrupt), BundleWriter(dest, overwrite=True) as writer:
        writer.add_bytes("model.onnx", b"second")
        assert Bundle.open(dest).path("model.onnx").read_bytes() == b"first"
        raise KeyboardInterrupt
    assert Bundle.open(dest).path("model.onnx").read_bytes() == b"first"


def test_a_folder_that_is_not_a_bundle_is_never_replaced(
    tmp_path: Path, write: Callable[..., Path]
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    assert Bundle.open(write(home))  # an empty folder is as good as none
    (home / "manifest.json").rename(home / "letter.txt")
    with pytest.raises(BadInputError, match="is not a bundle, so it is not replaced"):
        write(home, overwrite=True)


def test_says_when_the_kind_does_not_fit(tmp_path: Path) -> None:
    (tmp_path / "a.dedos").mkdir()
    (tmp_path / "b").write_text("")
    with pytest.raises(BadInputError, match="is a folder, but names that end in .dedos are files"):
        BundleWriter(tmp_path / "a.dedos", overwrite=True)
    with pytest.raises(BadInputError, match="is a file; give a folder or a name ending in .dedos"):
        BundleWriter(tmp_path / "b", overwrite=True)
    with pytest.raises(BadInputError, match="none' does not exist; create it first"):
        BundleWriter(tmp_path / "none" / "c")
    with pytest.raises(SinkError, match="cannot be written"):
        with BundleWriter(tmp_path / ("n" * 250)):
            pass


def test_an_incomplete_bundle_does_not_appear(tmp_path: Path, manifest: Manifest) -> None:
    with pytest.raises(BadBundleError, match="does not list 'text_encoder.onnx'"):
        with BundleWriter(tmp_path / "new") as writer:
            writer.add_bytes("model.onnx", b"x")
            writer.commit(manifest)
    assert listing(tmp_path) == []


def test_names_are_checked(tmp_path: Path, embeddings: np.ndarray) -> None:
    with BundleWriter(tmp_path / "new") as writer:
        writer.add_bytes("model.onnx", b"x")
        for name in ("../x", "/x", "manifest.json", ""):
            with pytest.raises(BadInputError, match="cannot be called"):
                writer.add_bytes(name, b"x")
        with pytest.raises(BadInputError, match="'model.onnx' comes twice"):
            writer.add_bytes("model.onnx", b"y")
        with pytest.raises(BadInputError, match="vocabulary .* cannot be called 'a/b'"):
            writer.add_vocabulary("a/b", ("x", "y", "z"), embeddings)
        with pytest.raises(BadInputError, match="cannot read .*none.* for 'tokenizer.json'"):
            writer.add_file("tokenizer.json", tmp_path / "none")


def test_a_refused_vocabulary_can_be_given_again(
    tmp_path: Path, manifest: Manifest, embeddings: np.ndarray
) -> None:
    with BundleWriter(tmp_path / "new") as writer:
        for name in ("model.onnx", "text_encoder.onnx", "tokenizer.json"):
            writer.add_bytes(name, b"x")
        with pytest.raises(BadInputError, match="2 words for 3"):
            writer.add_vocabulary("base", ("a", "b"), embeddings)
        writer.add_vocabulary("base", ("a", "b", "c"), embeddings)
        assert Bundle.open(writer.commit(manifest)).base_words == ("a", "b", "c")


def test_the_same_contents_give_the_same_bytes(tmp_path: Path, manifest: Manifest) -> None:
    for name in ("1.dedos", "2.dedos"):
        with BundleWriter(tmp_path / name) as writer:
            for index, file in enumerate(("model.onnx", "text_encoder.onnx", "tokenizer.json")):
                os.utime(writer.add_bytes(file, b"x"), (index + len(name), 10**9 * int(name[0])))
            writer.commit(replace(manifest, base_vocabulary=None))
    with zipfile.ZipFile(tmp_path / "1.dedos") as archive:
        assert {info.date_time[0] for info in archive.infolist()} == {1980}
    assert (tmp_path / "1.dedos").read_bytes() == (tmp_path / "2.dedos").read_bytes()


def test_files_are_copied_and_follow_the_umask(tmp_path: Path, manifest: Manifest) -> None:
    source = tmp_path / "graph"
    source.write_bytes(b"graph")
    source.chmod(0o600)
    with BundleWriter(tmp_path / "new") as writer:
        for name in ("model.onnx", "text_encoder.onnx", "tokenizer.json"):
            writer.add_file(name, source)
        dest = writer.commit(replace(manifest, base_vocabulary=None))
    (tmp_path / "plain").mkdir()
    assert dest.stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert Bundle.open(dest).path("model.onnx").read_bytes() == b"graph"


def test_a_kill_between_the_two_renames_costs_no_bundle(
    tmp_path: Path, write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    dest = write(tmp_path / "b", model=b"old")
    rename = os.rename

    def killed_after_the_first(source: Path, target: Path) -> None:
        if Path(target).name == "b":
            raise SystemExit  # neither the new one nor, as after a kill, the old one gets the name
        rename(source, target)

    with monkeypatch.context() as patched, pytest.raises(SystemExit):
        patched.setattr(os, "rename", killed_after_the_first)
        write(dest, model=b"new", overwrite=True)
    assert not dest.exists()
    sweep(tmp_path)
    (kept,) = tmp_path.iterdir()
    assert (kept / "model.onnx").read_bytes() == b"old"
    assert write(dest, model=b"new").is_dir()
