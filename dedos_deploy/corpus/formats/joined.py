"""Text files of several long lists, written a piece at a time, so that memory stays flat."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO


class Pieces:
    """Pieces of text that gather in a hidden file beside `path` until they are joined into it."""

    def __init__(self, path: Path, name: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path.with_name(f".{path.name}.{name}")
        self._file = self._path.open("x+b")
        self.count = 0

    def add(self, text: str) -> None:
        """Append a piece."""
        self._file.write(text.encode())
        self.count += 1

    def move_to(self, file: BinaryIO) -> None:
        """Copy all pieces into a file, and remove them."""
        self._file.seek(0)
        shutil.copyfileobj(self._file, file)
        self._file.close()
        self._path.unlink()


class JsonLists:
    """A JSON object some of whose values are lists that grow, one line an item."""

    def __init__(self, path: Path, *names: str) -> None:
        self._path = path
        self._lists = {name: Pieces(path, name) for name in names}

    def add(self, name: str, value: object) -> None:
        """Append an item to a list."""
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        pieces = self._lists[name]
        pieces.add(("" if pieces.count == 0 else ",\n") + text)

    def finish(self, values: Mapping[str, object]) -> None:
        """Write the file: the lists, and other values before them."""
        with self._path.open("xb") as file:
            head = json.dumps(values, ensure_ascii=False, allow_nan=False)
            file.write(head[:-1].encode())
            for name, pieces in self._lists.items():
                file.write(f',\n"{name}": [\n'.encode())
                pieces.move_to(file)
                file.write(b"\n]")
            file.write(b"}\n")
