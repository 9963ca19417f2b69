"""Bundles: damaged archives, and folders whose hashes are right although their parts are not."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

from fuzzing.archives import NAMES, lying_zip, pack
from fuzzing.mutators import json_bytes, mutate_bytes, mutate_json
from fuzzing.subject import Limits, Subject
from fuzzing.tensor_files import mutate_safetensors
from fuzzing.tiny import (
    MANIFEST,
    REPORT,
    VOCABULARY,
    consistent_manifest,
    read_files,
    write_bundle,
    write_files,
)

ARCHIVE = "case.dedos"
FOLDER = "case"
TOKENIZER = "tokenizer.json"
_WORDS = "red,green"
_TOKENIZER_WORDS = (
    "BPE",
    "WordPiece",
    "Unigram",
    "WordLevel",
    "Sequence",
    "Split",
    "ByteLevel",
    "Metaspace",
    "Regex",
    "Precompiled",
    "\\p{L}+",
    "(a|b)*\\1",
)
_MANIFEST_WORDS = ("cpu", "rtx", "int8", "{}", "{}{}", "single", "gelu", TOKENIZER, "model.onnx")


class Bundles(Subject):
    """Everything of a bundle but its graphs, opened, and one frame labelled."""

    name = "bundles"
    preload = ("cv2", "onnx", "onnxruntime", "tokenizers", "safetensors.numpy")
    limits = Limits(memory_mb=512)

    def write_seeds(self, folder: Path) -> None:
        write_bundle(folder / FOLDER)

    def open(self, seeds: Path) -> None:
        self.files = read_files(seeds / FOLDER)
        self._zip = pack(self.files)
        self._cache = seeds.parent / "cache"
        os.environ["DEDOS_CACHE_DIR"] = str(self._cache)

    def whole(self, folder: Path) -> Iterator[Path]:
        yield write_files(self.files, folder / FOLDER)
        (folder / ARCHIVE).write_bytes(self._zip)
        yield folder / ARCHIVE

    def make(self, random: Random, folder: Path) -> Path:
        kinds: tuple[Callable[[Random, Path], Path], ...] = (
            self._bytes,
            self._lying,
            self._manifest,
            self._manifest,
            self._tokenizer,
            self._tokenizer,
            self._vocabulary,
            self._report,
            self._special,
        )
        return random.choice(kinds)(random, folder)

    def attempt(self, made: Path) -> None:
        try:
            label_with(made)
        finally:
            # Named by content, it would grow by a bundle per case.
            shutil.rmtree(self._cache, ignore_errors=True)

    def _bytes(self, random: Random, folder: Path) -> Path:
        return _archive(mutate_bytes(self._zip, random), folder)

    def _lying(self, random: Random, folder: Path) -> Path:
        return _archive(lying_zip(self.files, random), folder)

    def _manifest(self, random: Random, folder: Path) -> Path:
        manifest = json_bytes(
            mutate_json(consistent_manifest(self.files), random, (*_MANIFEST_WORDS, *NAMES))
        )
        if random.random() < 0.3:
            manifest = mutate_bytes(manifest, random)
        return write_files({**self.files, MANIFEST: manifest}, folder / FOLDER)

    def _tokenizer(self, random: Random, folder: Path) -> Path:
        if random.random() < 0.3:
            return self._with(TOKENIZER, mutate_bytes(self.files[TOKENIZER], random), folder)
        value = mutate_json(json.loads(self.files[TOKENIZER]), random, _TOKENIZER_WORDS)
        return self._with(TOKENIZER, json_bytes(value), folder)

    def _vocabulary(self, random: Random, folder: Path) -> Path:
        return self._with(VOCABULARY, mutate_safetensors(self.files[VOCABULARY], random), folder)

    def _report(self, random: Random, folder: Path) -> Path:
        return self._with(REPORT, mutate_bytes(self.files[REPORT], random), folder)

    def _special(self, random: Random, folder: Path) -> Path:
        """Links, FIFOs, sockets and folders in place of a file, or of the whole."""
        if random.random() < 0.2:
            target = folder / random.choice((FOLDER, ARCHIVE))
        else:
            bundle = write_files(self.files, folder / FOLDER)
            target = bundle / random.choice([*self.files, "extra", "engines"])
            target.unlink(missing_ok=True)
        _put_special(target, random)
        return folder / FOLDER if (folder / FOLDER).exists() else target

    def _with(self, name: str, content: bytes, folder: Path) -> Path:
        files = {**self.files, name: content}
        files[MANIFEST] = json_bytes(consistent_manifest(files))
        return write_files(files, folder / FOLDER)


def label_with(bundle: Path) -> None:
    """Open a bundle, label a frame, change the words for ones that it does not know, label again."""
    import numpy as np

    from dedos_deploy.runtime import Segmenter

    frame = np.zeros((60, 90, 3), np.uint8)
    with Segmenter.load(bundle, classes=_WORDS, background="negatives", threads=1) as segmenter:
        segmenter.segment(frame)
        segmenter.set_classes("red,a new word")
        segmenter.segment(frame)


def _archive(content: bytes, folder: Path) -> Path:
    path = folder / ARCHIVE
    path.write_bytes(content)
    return path


def _put_special(target: Path, random: Random) -> None:
    kind = random.choice(("fifo", "socket", "folder", "link", "loop", "dangling", "device", "deep"))
    if kind == "fifo":
        os.mkfifo(target)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as one:
            # From within, since addresses of sockets are short.
            back = os.open(".", os.O_RDONLY)
            os.chdir(target.parent)
            one.bind(target.name)
            os.fchdir(back)
            os.close(back)
    elif kind == "folder":
        target.mkdir()
    elif kind == "deep":
        (target / "/".join(["d"] * random.choice((3, 300)))).mkdir(parents=True)
    else:
        links: dict[str, Any] = {
            "link": "/etc/passwd",
            "loop": target.name,
            "dangling": "nothing",
            "device": "/dev/zero",
        }
        target.symlink_to(links[kind])
