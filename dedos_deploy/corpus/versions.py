"""Whether sources are still what they were when a corpus was listed: what stands for the version of each."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from dedos_deploy.corpus.folders import scheme_of
from dedos_deploy.corpus.frames import SCENE
from dedos_deploy.corpus.inputs import listed_at, without_settings
from dedos_deploy.corpus.manifest import Manifest

_CHANGES = (
    *("ETag", "etag", "md5Hash", "blob_id", "LastModified", "last_modified", "mtime"),
    *("modified", "modificationTime", "modify"),  # of WebDAV, HDFS and FTP
)
"""What stores and file systems call what changes with a file: the first one that is there counts."""

_MLSD_TIME = re.compile(r"\d{14}(\.\d+)?")
"""Servers of FTP without MLSD write times as `ls -l` does: another text once a file is half a year old."""


class Versions:
    """What stands for the version of each source now: size and time of a file, what a store says of an object."""

    def __init__(self, inputs: Iterable[str]) -> None:
        """List inputs at addresses; servers of http say nothing that can be relied on.

        inputs: as of `inputs.absolute`. Raises BadInputError.
        """
        self._listed = {
            path: listed_at(path)
            for path in (without_settings(item)[0] for item in inputs if not item.startswith(SCENE))
            if scheme_of(path) not in (None, "http", "https")
        }
        found = (one for listed in self._listed.values() for one in listed.items())
        self._stored = {name: mark for name, said in found if (mark := _stored(said))}

    def listed_at(self, address: str) -> Mapping[str, Mapping[str, Any]]:
        """Return what `inputs.listed_at` does; of the inputs without asking their store again."""
        known = self._listed.get(address)
        return listed_at(address) if known is None else known

    def of(self, source: str) -> str | None:
        """Return what stands for the version of a source, None where nothing does, as for folders of bags.

        Where two differ the source has changed, or was written anew with the same content.
        """
        path = without_settings(source)[0]
        if source.startswith(SCENE) or scheme_of(source) is not None:
            return self._stored.get(path)
        try:
            found = os.stat(path)
        except OSError:
            return None
        return f"{found.st_size}-{found.st_mtime_ns}" if stat.S_ISREG(found.st_mode) else None


def _stored(said: Mapping[str, Any]) -> str | None:
    """Return what stands for the version of a file by what its store says of it: size and mark, or one alone."""
    mark, size = _mark(said), said.get("size")
    return None if mark is None and size is None else f"{size}-{'' if mark is None else mark}"


def _mark(said: Mapping[str, Any]) -> object:
    named = [name for name in _CHANGES if name in said]
    for name in named:
        is_lasting = name != "modify" or _MLSD_TIME.fullmatch(str(said[name]))
        if said[name] and is_lasting:
            return said[name]
    # Only where nothing else is ever said, as of memory, where a file is created anew by every write.
    return None if named else said.get("created")


def changed_sources(manifest: Manifest, versions: Versions) -> Iterator[str]:
    """Yield the sources that are not what they were when a corpus was listed, or are gone, each once."""
    last = None
    for shard in range(len(manifest)):
        for piece in manifest.pieces(shard):
            # Pieces of one source follow each other.
            if piece.source == last or piece.stamp is None:
                continue
            last = piece.source
            if versions.of(piece.source) != piece.stamp:
                yield piece.source
