"""Sources on servers: their addresses name the server, and a change is noticed by what each store says."""

from __future__ import annotations

import ftplib
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import fsspec
import pytest
from corpus_helpers import png, values
from fsspec.spec import AbstractFileSystem

from dedos_deploy.corpus.beginning import Wanted, begin
from dedos_deploy.corpus.folders import folder_at
from dedos_deploy.corpus.frames import FrameReader
from dedos_deploy.corpus.inputs import sources_in
from dedos_deploy.corpus.labelling import Job
from dedos_deploy.corpus.versions import Versions
from dedos_deploy.errors import BadInputError

SERVER = "store.example:2121"
NAMES = ("10.png", "2.png", "inner/a.png")


class FakeFtp:
    """A server at SERVER as ftplib.FTP shows it, with the folder /pictures."""

    files: ClassVar[dict[str, tuple[bytes, str]]] = {}
    """Content and time of each file."""

    has_mlsd = True

    def __init__(self, **_: object) -> None:
        pass

    def connect(self, host: str, port: int) -> None:
        if f"{host}:{port}" != SERVER:
            raise ConnectionRefusedError(111, "Connection refused")

    def login(self, *_: str) -> None:
        pass

    def close(self) -> None:
        pass

    def _entries(self, path: str) -> Iterator[tuple[str, dict[str, str]]]:
        top = path.rstrip("/") + "/"
        inside = {name.removeprefix(top) for name in self.files if name.startswith(top)}
        for name in sorted({one.split("/")[0] for one in inside}):
            found = self.files.get(top + name)
            if found is None:
                yield name, {"type": "dir", "modify": "20240101000000"}
            else:
                yield name, {"type": "file", "size": str(len(found[0])), "modify": found[1]}

    def mlsd(self, path: str) -> Iterator[tuple[str, dict[str, str]]]:
        if not self.has_mlsd:
            raise ftplib.error_perm("500 Unknown command")
        return self._entries(path)

    def dir(self, path: str, tell: Callable[[str], None]) -> None:
        for name, said in self._entries(path):
            kind, time = "d" if said["type"] == "dir" else "-", self.ls_time
            tell(f"{kind}rw-r--r-- 1 ftp ftp {said.get('size', 0)} {time} {name}")

    ls_time = "Jan 01 12:34"

    def retrbinary(self, command: str, callback: Callable[[bytes], None], **_: object) -> None:
        callback(self.files[command.removeprefix("RETR ")][0])


@pytest.fixture
def ftp(monkeypatch: pytest.MonkeyPatch) -> type[FakeFtp]:
    monkeypatch.setattr("fsspec.implementations.ftp.FTP", FakeFtp)
    files = {f"/pictures/{name}": (png(n), "20240102030405") for n, name in enumerate(NAMES)}
    monkeypatch.setattr(FakeFtp, "files", files)
    monkeypatch.setattr(FakeFtp, "has_mlsd", True)
    return FakeFtp


def test_sources_on_a_server_are_read_where_they_lie(ftp: type[FakeFtp]) -> None:
    listed = sources_in(f"ftp://{SERVER}/pictures")
    assert listed == [f"ftp://{SERVER}/pictures/{name}" for name in ("2.png", "10.png", NAMES[2])]
    assert sources_in(f"ftp://{SERVER}/pictures/*.png") == listed[:2]
    assert sources_in(listed[0]) == listed[:1]
    for address, number in zip(listed, (1, 0, 2), strict=True):
        with FrameReader(address) as reader:
            assert values(reader.frames(0, None)) == {0: number}
    for address in ("ftp://other.example/pictures", f"ftp://{SERVER}/none"):
        with pytest.raises(BadInputError, match="cannot be read .*|names nothing"):
            sources_in(address)
    with pytest.raises(BadInputError, match=r"'ftp://other.example/out' cannot be read \(Conn"):
        folder_at("ftp://other.example/out")


def _changes(job: Job, address: str, change: Callable[[], None]) -> tuple[str, ...]:
    """Return what is named when something is done between two runs."""
    wanted = Wanted((address,))
    begin(job, wanted).write()
    assert begin(job, wanted).changed == ()
    change()
    return begin(job, wanted).changed


@pytest.mark.parametrize("longer", [False, True])
@pytest.mark.parametrize("has_mlsd", [False, True])
def test_a_source_that_has_changed_on_ftp_is_named(
    ftp: type[FakeFtp],
    job: Callable[..., Job],
    monkeypatch: pytest.MonkeyPatch,
    has_mlsd: bool,
    longer: bool,
) -> None:
    monkeypatch.setattr(ftp, "has_mlsd", has_mlsd)
    name = "/pictures/2.png"

    def change() -> None:
        content = ftp.files[name][0][::-1] + b"!" * longer
        ftp.files[name] = content, "20240102030406"
        # As `ls -l` writes the same time half a year later.
        monkeypatch.setattr(ftp, "ls_time", "Jan 01 2024")

    found = _changes(job(), f"ftp://{SERVER}/pictures", change)
    assert found == ((f"ftp://{SERVER}{name}",) if has_mlsd or longer else ())


def _serve(said: dict[str, Any]) -> None:
    """Let all files at webdav:// be what is said of them, at the time of asking."""

    class Store(AbstractFileSystem):
        protocol = "webdav"
        cachable = False

        def info(self, path: str, **_: Any) -> dict[str, Any]:
            return {"name": self._strip_protocol(path), "type": "file", **said}

    fsspec.register_implementation("webdav", Store, clobber=True)


WEBDAV = {"href": "/1.png", "content_type": "image/png", "created": "2024-01-01 00:00:00+00:00"}


@pytest.mark.parametrize(
    ("before", "after", "is_named"),
    [
        # As webdav4 gives them: None for what the server does not say.
        ({**WEBDAV, "etag": '"a"', "modified": None}, {"etag": '"b"'}, True),
        ({**WEBDAV, "etag": None, "modified": "2024-01-01"}, {"modified": "2024-01-02"}, True),
        ({**WEBDAV, "etag": None, "modified": None}, {"created": "2025-01-01"}, False),
        ({**WEBDAV, "etag": None, "modified": None}, {"size": 9}, True),
        ({"modificationTime": 1_700_000_000_000}, {"modificationTime": 1_700_000_000_001}, True),
        ({"mtime": 1.5, "created": 1.0}, {"created": 2.0}, False),
        ({}, {"size": 9}, True),
    ],
)
def test_a_source_that_has_changed_in_another_store_is_named(
    job: Callable[..., Job],
    before: dict[str, Any],
    after: dict[str, Any],
    is_named: bool,
) -> None:
    said = {"size": 8, **before}
    _serve(said)
    (source,) = sources_in("webdav:///store/1.png")
    found = _changes(job(), source, lambda: said.update(after))
    assert found == ((source,) if is_named else ())


def test_nothing_is_known_of_what_has_neither_size_nor_time() -> None:
    _serve({"size": None})
    assert Versions(["webdav:///store/1.png"]).of("webdav:///store/1.png") is None
