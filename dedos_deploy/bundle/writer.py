"""BundleWriter: collects the files of a bundle and makes it appear at once, or not at all."""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from dedos_deploy.bundle._names import (
    MANIFEST,
    clash,
    is_safe_name,
    is_vocabulary_name,
    vocabulary_file,
)
from dedos_deploy.bundle._verify import verify_folder
from dedos_deploy.bundle.manifest import Manifest
from dedos_deploy.errors import BadInputError, SinkError, shown
from dedos_deploy.files import (
    Temporary,
    open_regular,
    replace_folder,
    sha256_of,
    sweep,
    sync,
    sync_tree,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from dedos_deploy.bundle.bundle import Bundle

ARCHIVE_SUFFIX = ".dedos"

# Graphs of large models hold FP16 weights, which deflate by a tenth at ten times the time.
_DEFLATE_LIMIT = 64 << 20
_CHUNK = 1 << 20
_ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)
_FILE_MODE = 0o100644
_UNIX = 3  # of ZipInfo.create_system: the mode above counts


class BundleWriter:
    """Writes a bundle to a folder, or to one file when `dest` ends in `.dedos`.

    Files gather in a hidden folder beside `dest`; `commit` writes the manifest, checks the whole,
    and renames it into place. Leaving the block without `commit`, by an exception or Ctrl-C too,
    removes everything, and what a killed writer left is removed by the next; a bundle that stood
    there before stays until the new one is complete.

    dest: its parent folder must exist; overwrite: replace a bundle that is there, or a link to one,
    whose target stays.

    with BundleWriter("street.dedos") as writer:
        writer.add_file("model.onnx", graph_path)
        writer.add_bytes("tokenizer.json", tokenizer_json)
        writer.commit(manifest)

    Raises BadInputError when `dest` cannot be used, SinkError when it cannot be written.
    """

    def __init__(self, dest: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        # Its folder is resolved, its name is not: a link is replaced, never written through.
        named = Path(os.path.abspath(dest))
        self.dest = named.parent.resolve() / named.name
        self._is_archive = self.dest.suffix == ARCHIVE_SUFFIX
        self._overwrite = overwrite
        self._temporary: Temporary | None = None
        self._files: dict[str, str] = {}
        self._vocabularies: list[str] = []
        _check_dest(self.dest, is_archive=self._is_archive, overwrite=overwrite)

    def __enter__(self) -> BundleWriter:
        with self._writing():
            sweep(self.dest.parent)
            # One hidden folder holds all that is unfinished, so one removal undoes everything.
            self._temporary = Temporary(self.dest, folder=True)
            self._staging.mkdir()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._temporary is not None:
            self._temporary.discard()

    @property
    def _work(self) -> Path:
        assert self._temporary is not None, "inside the with block only"
        return self._temporary.path

    @property
    def _staging(self) -> Path:
        return self._work / "bundle"

    @property
    def scratch(self) -> Path:
        """A folder for what is needed while writing, on the disk of the bundle."""
        folder = self._work / "scratch"
        with self._writing():
            folder.mkdir(exist_ok=True)
        return folder

    def add_file(self, name: str, source: str | os.PathLike[str]) -> Path:
        """Copy a file into the bundle as `name` and return its path for the time of writing.

        Raises BadInputError for a name that is taken or unsafe, or a source that cannot be read.
        """
        target = self._target(name)
        try:
            stream = open_regular(source)
        except OSError as error:
            raise BadInputError(
                f"cannot read {os.fspath(source)!r} for {name!r} of the bundle ({error.strerror})"
            ) from error
        with stream, self._writing(), target.open("xb") as out:
            shutil.copyfileobj(stream, out, _CHUNK)
        return self._added(name, target)

    def add_bytes(self, name: str, content: bytes) -> Path:
        """Write a file of the bundle and return its path for the time of writing.

        Raises BadInputError for a name that is taken or unsafe.
        """
        target = self._target(name)
        with self._writing():
            target.write_bytes(content)
        return self._added(name, target)

    def add_vocabulary(
        self, name: str, words: Sequence[str], embeddings: NDArray[np.float32]
    ) -> Path:
        """Add words with their text embeddings, float32 [N, D], unit rows, as a vocabulary.

        Raises BadInputError for a name that is taken or not plain, or unusable embeddings.
        """
        from dedos_deploy.vocabulary_file import save_vocabulary

        if not is_vocabulary_name(name):
            raise BadInputError(
                f"a vocabulary of a bundle cannot be called {shown(name)}; use letters, digits, "
                f"'-' and '_'"
            )
        target = self._target(vocabulary_file(name))
        with self._writing():
            save_vocabulary(target, words, embeddings, {})
        self._vocabularies.append(name)
        return self._added(vocabulary_file(name), target)

    def add_all(self, bundle: Bundle, *, without: Collection[str] = ()) -> None:
        """Copy every file and vocabulary of an open bundle, byte for byte, but those named."""
        for name in bundle.manifest.files:
            if name not in without:
                self.add_file(name, bundle.path(name))
        self._vocabularies += bundle.manifest.vocabularies

    def commit(self, manifest: Manifest) -> Path:
        """Make the bundle appear at `dest` and return its path.

        manifest: its `files` and `vocabularies` are filled in from what was added.

        Raises BadBundleError naming what is missing or does not fit, before anything appears.
        """
        complete = replace(manifest, files=dict(self._files), vocabularies=self._vocabularies)
        text = complete.to_json()
        with self._writing():
            (self._staging / MANIFEST).write_text(text, encoding="utf-8")
            verify_folder(self._staging, label=f"bundle {str(self.dest)!r}", hashes=True)
            # Looked at again: something may have appeared while the files were made.
            _check_dest(self.dest, is_archive=self._is_archive, overwrite=self._overwrite)
            if self._is_archive:
                packed = _pack(self._staging, self._work / "packed", [MANIFEST, *self._files])
                os.replace(packed, self.dest)
            else:
                sync_tree(self._staging)
                replace_folder(self._staging, self.dest)
            sync(self.dest.parent)
        return self.dest

    def _target(self, name: str) -> Path:
        if not is_safe_name(name) or name == MANIFEST:
            raise BadInputError(f"a file of a bundle cannot be called {shown(name)}")
        problem = clash([*self._files, MANIFEST, name])
        if problem is not None:
            raise BadInputError(f"a file cannot be added to the bundle: {problem}")
        target = self._staging / name
        with self._writing():
            target.parent.mkdir(parents=True, exist_ok=True)
        return target

    def _added(self, name: str, target: Path) -> Path:
        with self._writing(), target.open("rb") as stream:
            self._files[name] = sha256_of(stream)
        return target

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise SinkError(
                f"bundle {str(self.dest)!r} cannot be written ({error.strerror}); nothing was left "
                f"behind, choose another place or make room"
            ) from error


def _check_dest(dest: Path, *, is_archive: bool, overwrite: bool) -> None:
    name = repr(str(dest))
    if not dest.parent.is_dir():
        raise BadInputError(f"folder {str(dest.parent)!r} does not exist; create it first")
    if not os.path.lexists(dest) or (dest.is_dir() and not is_archive and not any(dest.iterdir())):
        return
    if is_archive and dest.is_dir():
        raise BadInputError(f"{name} is a folder, but names that end in {ARCHIVE_SUFFIX} are files")
    if not is_archive and not dest.is_dir():
        raise BadInputError(f"{name} is a file; give a folder or a name ending in {ARCHIVE_SUFFIX}")
    if not overwrite:
        raise BadInputError(f"{name} already exists; use --overwrite to replace it")
    if not is_archive and not (dest / MANIFEST).is_file():
        raise BadInputError(f"{name} is not a bundle, so it is not replaced; give another folder")


def _pack(folder: Path, packed: Path, names: Sequence[str]) -> Path:
    """Zip the named files with fixed times and modes: same contents, same bytes."""
    with packed.open("xb") as stream:
        with zipfile.ZipFile(stream, "w") as archive:
            for name in names:
                _pack_file(archive, folder / name, name)
        stream.flush()
        os.fsync(stream.fileno())
    return packed


def _pack_file(archive: zipfile.ZipFile, path: Path, name: str) -> None:
    info = zipfile.ZipInfo(name, _ZIP_EPOCH)
    info.file_size = path.stat().st_size
    info.create_system = _UNIX
    info.external_attr = _FILE_MODE << 16
    deflate = info.file_size <= _DEFLATE_LIMIT
    info.compress_type = zipfile.ZIP_DEFLATED if deflate else zipfile.ZIP_STORED
    with path.open("rb") as stream, archive.open(info, "w") as out:
        shutil.copyfileobj(stream, out, _CHUNK)
