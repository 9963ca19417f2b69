"""The folder of a data set, on this machine or wherever fsspec reaches, where files appear whole."""

from __future__ import annotations

import contextlib
import os
import posixpath
import re
import tempfile
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from dedos_deploy.borders import first_line, foreign
from dedos_deploy.errors import BadInputError, DedosError, SinkError, require
from dedos_deploy.files import open_regular, read_regular, replacing, sweep, write_atomically
from dedos_deploy.locks import held
from dedos_deploy.runtime.sinks.outputs import writing
from dedos_deploy.runtime.uri import redact

if TYPE_CHECKING:
    from dedos_deploy.borders import Refusal

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]+)://", re.IGNORECASE)
_WITHOUT_FOLDERS = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oss", "hf")
"""Object stores, where a name with slashes needs no folder."""

_WITH_PUT_IF_ABSENT = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss")
"""Those whose packages know a PUT that fails where there is something; others do not know of `mode`."""

_PURPOSE = "reading and writing addresses such as s3:// and hf://"


def scheme_of(address: str) -> str | None:
    """Return the lower-case scheme of an address that fsspec reads, None for a path.

    >>> scheme_of("S3://bucket/a"), scheme_of("C:/a"), scheme_of("a/b")
    ('s3', None, None)
    """
    match = _SCHEME.match(address)
    return match[1].lower() if match else None


def file_system(address: str) -> tuple[Any, str]:
    """Return fsspec's file system for an address, and the path within it. Raises BadInputError."""
    core = require("fsspec.core", extra="corpus", purpose=_PURPOSE)
    # Some connect at once.
    with reaching(address):
        try:
            found: tuple[Any, str] = core.url_to_fs(address)
        except ImportError as error:  # fsspec's says which package to install
            raise BadInputError(f"{address!r} cannot be reached: {error}") from error
        except ValueError as error:
            raise BadInputError(
                f"{address!r} cannot be reached ({error}); give a path, or an address that fsspec knows, as "
                "s3://bucket/folder"
            ) from error
    return found


def unreachable(address: str) -> Refusal:
    """Return what makes an error of the reason why an address cannot be read."""
    return lambda why: BadInputError(
        f"{address!r} cannot be read ({why}); check the address, its permissions and the network"
    )


def reaching(address: str) -> contextlib.AbstractContextManager[None]:
    """Turn what fsspec raises, when it reads at an address, into a BadInputError."""
    return foreign(unreachable(address), reason=_told)


def _told(error: BaseException) -> str:
    """Return what a store says is wrong; what it quotes is an address."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return redact(first_line(error))


class Folder:
    """A folder with the files of a data set, by names such as `labels/part-000001.parquet`."""

    def __init__(self, address: str) -> None:
        self.address = address

    @abstractmethod
    def read(self, name: str) -> bytes | None:
        """Return a whole file, None where there is none. Raises BadInputError."""

    @abstractmethod
    def open(self, name: str) -> contextlib.AbstractContextManager[BinaryIO]:
        """Open a file that is there for reading at any position. Raises BadInputError."""

    @abstractmethod
    def write(self, name: str, content: bytes) -> None:
        """Write a file, whole or not at all. Raises SinkError."""

    def write_new(self, name: str, content: bytes) -> bool:
        """Write a file as `write` does unless it is there; return whether it was not.

        Of several that write one at once on S3, Google's and Azure's stores one alone succeeds; on this
        machine where each holds the folder; elsewhere it is only looked for before. Raises SinkError.
        """
        if self.read(name) is not None:
            return False
        self.write(name, content)
        return True

    @abstractmethod
    def writing(self, name: str) -> contextlib.AbstractContextManager[Path]:
        """Yield a path to write to, which becomes the file when the block ends well; raises as `write`."""

    @abstractmethod
    def names(self, folder: str) -> list[str]:
        """Return the names of the files in a folder of it, sorted; none where there is no such folder."""

    @abstractmethod
    def held(self) -> contextlib.AbstractContextManager[bool]:
        """Hold the folder, which is made, as long as the block lasts; False: another run holds it.

        Elsewhere than on this machine there are no locks, and it is True always: `write_new` has to tell
        who was first. Raises SinkError.
        """

    def where(self, name: str) -> str:
        """Return the address of a file, for messages."""
        return posixpath.join(self.address, name)


def folder_at(address: str) -> Folder:
    """Return the folder at a path or at an address of fsspec, which need not exist yet."""
    if scheme_of(address) is None:
        return _LocalFolder(Path(os.path.expanduser(address)))
    return _RemoteFolder(address)


class _LocalFolder(Folder):
    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._path = path

    def read(self, name: str) -> bytes | None:
        try:
            return read_regular(self._path / name)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise self._refused(name)(error.strerror or type(error).__name__) from error

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        try:
            file = open_regular(self._path / name)
        except OSError as error:
            raise self._refused(name)(error.strerror or type(error).__name__) from error
        with file:
            yield file

    def write(self, name: str, content: bytes) -> None:
        path = self._path / name
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, content, sync=True)

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        path = self._path / name
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path, sync=True) as temporary:
                yield temporary

    @contextlib.contextmanager
    def held(self) -> Iterator[bool]:
        with contextlib.ExitStack() as holding:
            with writing(self._path):
                self._path.mkdir(parents=True, exist_ok=True)
                is_alone = holding.enter_context(held(self._path))
            yield is_alone

    def names(self, folder: str) -> list[str]:
        sweep(self._path / folder)
        try:
            found = [entry.name for entry in os.scandir(self._path / folder) if entry.is_file()]
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise self._refused(folder)(error.strerror or type(error).__name__) from error
        return sorted(posixpath.join(folder, name) for name in found if not name.startswith("."))

    def _refused(self, name: str) -> Refusal:
        return unreachable(self.where(name))


class _RemoteFolder(Folder):
    """On an object store one PUT is all or nothing; of others fsspec renames where it can."""

    def __init__(self, address: str) -> None:
        super().__init__(address.rstrip("/"))
        self._files, self._path = file_system(address.rstrip("/"))

    def read(self, name: str) -> bytes | None:
        with reaching(self.where(name)):
            try:
                return cast(bytes, self._files.cat_file(self._at(name)))
            except FileNotFoundError:
                return None

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        with reaching(self.where(name)):
            file = self._files.open(self._at(name), "rb")
        with file:
            yield file

    def write(self, name: str, content: bytes) -> None:
        with foreign(self._unwritten(name), reason=_told):
            self._make_folder(name)
            self._files.pipe_file(self._at(name), content)

    def write_new(self, name: str, content: bytes) -> bool:
        if scheme_of(self.address) not in _WITH_PUT_IF_ABSENT:
            return super().write_new(name, content)
        with foreign(self._unwritten(name), reason=_told):
            self._make_folder(name)
            try:
                # `If-None-Match: *` of S3, and what others call it.
                self._files.pipe_file(self._at(name), content, mode="create")
            except FileExistsError:
                return False
        return True

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="dedos-label-") as folder:
            path = Path(folder) / "part"
            yield path
            with foreign(self._unwritten(name), reason=_told):
                self._make_folder(name)
                self._files.put_file(str(path), self._at(name))

    def names(self, folder: str) -> list[str]:
        with reaching(self.where(folder)):
            try:
                # Listed anew: another process may have written there.
                found = self._files.ls(self._at(folder), detail=True, refresh=True)
            except FileNotFoundError:
                return []
        files = (entry["name"] for entry in found if entry["type"] == "file")
        return sorted(posixpath.join(folder, posixpath.basename(name)) for name in files)

    def held(self) -> contextlib.AbstractContextManager[bool]:
        return contextlib.nullcontext(True)

    def _make_folder(self, name: str) -> None:
        # There a misspelt bucket would be made.
        if scheme_of(self.address) not in _WITHOUT_FOLDERS:
            self._files.makedirs(posixpath.dirname(self._at(name)), exist_ok=True)

    def _at(self, name: str) -> str:
        return posixpath.join(self._path, name)

    def _unwritten(self, name: str) -> Refusal:
        def refused(why: str) -> DedosError:
            return SinkError(
                f"output {self.where(name)!r} cannot be written ({why}); check the permissions and the "
                "room there"
            )

        return refused
