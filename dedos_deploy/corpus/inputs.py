"""Inputs of a corpus: what was named, as sources in their order, and how many frames each has."""

from __future__ import annotations

import contextlib
import glob
import os
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from dedos_deploy.borders import foreign
from dedos_deploy.corpus.folders import file_system, reaching, scheme_of
from dedos_deploy.corpus.frames import (
    PARQUET_SUFFIXES,
    SCENE,
    TAR_SUFFIXES,
    column_of,
    is_picture_member,
    kind_of,
    on_disk,
    opened,
)
from dedos_deploy.corpus.records import INFO_FILE
from dedos_deploy.errors import BadInputError, MissingExtraError, SourceError, require
from dedos_deploy.pictures import IMAGE_SUFFIXES
from dedos_deploy.runtime.sources.bags import BAG_SUFFIXES, is_bag
from dedos_deploy.runtime.sources.images import natural_order
from dedos_deploy.runtime.sources.opening import VIDEO_SUFFIXES, may_come_later, open_source
from dedos_deploy.runtime.uri import redact

SUFFIXES = (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES, *BAG_SUFFIXES, *PARQUET_SUFFIXES, *TAR_SUFFIXES)
"""Of what is looked for in folders and by globs; named alone, a file may end as it likes."""

TAKES = (
    "a picture, video, .mcap or .bag recording, .parquet or .tar file, a folder or quoted glob of them, "
    "by path or by an address such as s3://bucket/folder, or scene:street"
)
_GLOB_LETTERS = re.compile(r"[*\[]")
_WITH_SETTINGS = re.compile(r"(.*\.(?:parquet|mcap|bag|db3))\?(\w+=.*)", re.IGNORECASE | re.DOTALL)
_NO_TEXT = "is a name that is not UTF-8, which no row of a data set can hold; rename it"
_OPENED_AT_ONCE = 8


@dataclass(frozen=True)
class Counted:
    """A source and how many frames it has, or why it cannot be read."""

    source: str
    frames: int | None
    """None where that is only known once it was read."""

    is_exact: bool
    """Whether it is certain: containers of videos may only estimate it."""

    error: str = ""
    """What is wrong with it, in a sentence."""

    stamp: str | None = None
    """What tells this version of it from another, as `versions.Versions.of` gives it."""


Listed = Callable[[str], Mapping[str, Mapping[str, Any]]]
"""From an address of fsspec to the sources that it names; see `listed_at`."""


def absolute(address: str) -> str:
    """Return the address of an input so that it means the same wherever it is used: a path from the root.

    Raises BadInputError for one that is live, or holds a password.
    """
    if _without_surrogates(address) != address:
        raise BadInputError(f"{_without_surrogates(address)!r} {_NO_TEXT}")
    if redact(address) != address:
        raise BadInputError(
            f"{redact(address)!r} holds a password or key, which every row of the data set would repeat; "
            "give it by the environment or by fsspec's configuration"
        )
    if address.startswith(SCENE) or scheme_of(address) in ("http", "https"):
        return address
    if address.startswith("test:") or (may_come_later(address) and not os.path.exists(address)):
        raise BadInputError(
            f"{address!r} is live and has no end; record it with dedos-run, or give {TAKES}"
        )
    return address if scheme_of(address) else os.path.abspath(os.path.expanduser(address))


def _without_surrogates(name: str) -> str:
    """Return a name that is not UTF-8, as Linux allows, with its bytes written out; others as they are."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def sources_in(address: str, listed: Listed | None = None) -> list[str]:
    """Return the sources that an input names, in natural order: 2 comes before 10.

    address: as of `absolute`; listed: what lists addresses of fsspec, None for `listed_at`. Raises
    BadInputError for one that names nothing.
    """
    if address.startswith(SCENE):
        return [address]
    path, settings = without_settings(address)
    if scheme_of(path) is None:
        found = _local(path)
    else:
        found = sorted((listed or listed_at)(path), key=natural_order)
    if not found:
        raise BadInputError(f"{address!r} names nothing that can be labelled; give {TAKES}")
    return [f"{source}?{settings}" for source in found] if settings else found


def without_settings(address: str) -> tuple[str, str]:
    """Split `file.parquet?column=image`, unless there is such a file."""
    match = _WITH_SETTINGS.fullmatch(address)
    if match is None or os.path.exists(address):
        return address, ""
    return match[1], match[2]


def _local(address: str) -> list[str]:
    if os.path.isdir(address):
        return [address] if is_bag(address) else sorted(_within(address), key=natural_order)
    if os.path.exists(address):
        return [address]
    if not _GLOB_LETTERS.search(address) and "?" not in address:
        raise BadInputError(f"{address!r} does not exist; give {TAKES}")
    found = (name for name in glob.glob(address, recursive=True) if _is_wanted(name))
    return sorted(found, key=natural_order)


def _is_wanted(name: str) -> bool:
    return name.lower().endswith(SUFFIXES) or (os.path.isdir(name) and is_bag(name))


def _within(top: str) -> Iterator[str]:
    """Yield the sources below a folder; data sets of labels and hidden folders are passed over."""
    for folder, inner, files in os.walk(top, followlinks=True):
        if INFO_FILE in files:
            inner.clear()
            continue
        bags = [name for name in inner if is_bag(os.path.join(folder, name))]
        inner[:] = [
            name
            for name in inner
            if name[0] != "." and name not in bags and not _leads_back(folder, name, top)
        ]
        wanted = (name for name in files if name[0] != "." and name.lower().endswith(SUFFIXES))
        yield from (os.path.join(folder, name) for name in (*wanted, *bags))


def _leads_back(folder: str, name: str, top: str) -> bool:
    """Return whether a link leads to a folder that it lies in, on the way from `top`, without end."""
    path = os.path.join(folder, name)
    if not os.path.islink(path):
        return False
    target = os.path.join(os.path.realpath(path), "")
    way = [folder]
    while len(way[-1]) > len(top):
        way.append(os.path.dirname(way[-1]))
    return any(os.path.join(os.path.realpath(one), "").startswith(target) for one in way)


def listed_at(address: str) -> dict[str, Mapping[str, Any]]:
    """Return the sources that an address of fsspec names, without settings, with what their store says of each.

    Raises BadInputError.
    """
    with reaching(address):
        files, path = file_system(address)
        if _GLOB_LETTERS.search(path):
            found = files.glob(path, detail=True)
        elif files.isfile(path):
            return {_address_of(path, files, address): files.info(path)}
        else:
            found = files.find(path, detail=True)
            found = {name: found[name] for name in _shown(path, list(found))}
        named = {_address_of(name, files, address): said for name, said in found.items()}
    return {name: said for name, said in named.items() if name.lower().endswith(SUFFIXES)}


def _address_of(name: str, files: Any, listed: str) -> str:
    """Return the address of a file of the store at an address that was listed.

    fsspec leaves out where a server is that addresses name, as those of FTP, SFTP, SMB and HDFS do.
    """
    if "host" not in files._get_kwargs_from_urls(listed):
        return str(files.unstrip_protocol(name))
    server = urlsplit(listed)
    return f"{server.scheme}://{server.netloc}/{name.lstrip('/')}"


def _shown(top: str, names: Sequence[str]) -> list[str]:
    """Return the names below a folder that lie in no data set of labels and in no hidden folder."""
    ends = f"/{INFO_FILE}"
    sets = tuple(name.removesuffix(INFO_FILE) for name in names if name.endswith(ends))
    return [
        name for name in names if not name.startswith(sets) and "/." not in name.removeprefix(top)
    ]


def counted(sources: Iterable[str]) -> Iterator[Counted]:
    """Yield every source with the number of its frames, in order; what cannot be read says so."""
    with ThreadPoolExecutor(_OPENED_AT_ONCE, thread_name_prefix="dedos-count") as pool:
        yield from pool.map(_count, sources)


def _count(source: str) -> Counted:
    name, kind = _without_surrogates(source), kind_of(source)
    if name != source:
        return Counted(name, None, False, f"{name!r} {_NO_TEXT}")
    if kind == "picture":
        return Counted(source, 1, True)
    # What lies elsewhere would be fetched as a whole to be counted, except for Parquet files.
    if kind != "rows" and scheme_of(source) is not None and not source.startswith(SCENE):
        return Counted(source, None, False)
    try:
        if kind == "rows":
            return Counted(source, _count_rows(source), True)
        if kind == "samples":
            return Counted(source, _count_samples(source), True)
        with on_disk(source) as path, open_source(path) as frames:
            return Counted(source, frames.frames, False)
    except MissingExtraError:
        raise
    except (BadInputError, SourceError) as error:
        return Counted(source, None, False, str(error))


def _count_rows(source: str) -> int:
    parquet = require("pyarrow.parquet", extra="corpus", purpose="reading Parquet files")
    with opened(source.partition("?")[0]) as stream:
        with foreign(lambda why: BadInputError(f"Parquet file {source!r} cannot be read ({why})")):
            file = parquet.ParquetFile(stream)
        column_of(lambda: file.schema_arrow, source)
        return int(file.metadata.num_rows)


def _count_samples(source: str) -> int:
    with contextlib.ExitStack() as closing:
        stream = closing.enter_context(opened(source))
        with foreign(lambda why: BadInputError(f"tar {source!r} cannot be read ({why})")):
            tar = closing.enter_context(tarfile.open(fileobj=stream, mode="r:"))
            return sum(1 for member in tar if is_picture_member(member))


def local_paths(inputs: Iterable[str]) -> list[str]:
    """Return the paths among inputs, for the check that nothing of them is overwritten."""
    return [without_settings(item)[0] for item in inputs if scheme_of(item) is None]
