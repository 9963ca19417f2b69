"""Pictures of every kind, as files of a source and as bodies of requests."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

from fuzzing.mutators import mutate_bytes
from fuzzing.subject import Limits, Subject

_PNG = b"\x89PNG\r\n\x1a\n"
_SIDES = (0, 1, 2, 255, 4096, 4097, 20_000, 65_500, 65_535, 2**20, 2**31 - 1, 2**31, 2**32 - 1)


class Pictures(Subject):
    """JPEG, PNG, WebP, TIFF and BMP through the image source and through the server's decoder."""

    name = "pictures"
    preload = ("cv2",)
    # Nine bytes for each of the 2^28 pixels that a picture may have, see picture_sizes.
    limits = Limits(seconds=20.0, memory_mb=2400)

    def write_seeds(self, folder: Path) -> None:
        import cv2
        import numpy as np

        colours = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
        deep = colours.astype(np.uint16) * 257
        progressive = [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]
        pictures = {
            "plain.jpg": (colours, []),
            "progressive.jpg": (colours, progressive),
            "grey.jpg": (colours[:, :, 0], []),
            "plain.png": (colours, []),
            "deep.png": (deep, []),
            "alpha.png": (np.dstack([colours, colours[:, :, 0]]), []),
            "plain.webp": (colours, []),
            "plain.tiff": (colours, []),
            "deep.tiff": (deep, []),
            "plain.bmp": (colours, []),
        }
        for name, (picture, options) in pictures.items():
            _, encoded = cv2.imencode(Path(name).suffix, picture, options)
            (folder / name).write_bytes(encoded.tobytes())

    def open(self, seeds: Path) -> None:
        self._pictures = {path.name: path.read_bytes() for path in sorted(seeds.iterdir())}
        self._decode = decoder_of_requests()

    def whole(self, folder: Path) -> Iterator[Path]:
        for name, content in self._pictures.items():
            (folder / name).write_bytes(content)
            yield folder / name

    def make(self, random: Random, folder: Path) -> Path:
        name = random.choice(sorted(self._pictures))
        content = self._pictures[name]
        if random.random() < 0.25 and name.endswith((".png", ".jpg")):
            lie = lie_of_png if name.endswith(".png") else lie_of_jpeg
            content = lie(content, random)
        if random.random() < 0.75:
            others = [other for key, other in self._pictures.items() if key != name]
            content = mutate_bytes(content, random, others)
        path = folder / name
        path.write_bytes(content)
        return path

    def attempt(self, made: Path) -> None:
        from dedos_deploy.errors import DedosError
        from dedos_deploy.runtime import open_source

        refusal: DedosError | None = None
        if made.suffix in (".png", ".jpg"):
            try:
                self._decode(made.read_bytes())
            except DedosError as error:
                refusal = error
        with open_source(str(made)) as source:
            for _ in source:
                pass
        if refusal is not None:
            raise refusal


def decoder_of_requests() -> Callable[[bytes], object]:
    """Return what takes the body of a request for one picture."""
    from dedos_deploy.runtime.serving.decoder import MOST_SENT_PIXELS, PictureDecoder

    return PictureDecoder(most_pixels=MOST_SENT_PIXELS).decode


def lie_of_png(content: bytes, random: Random) -> bytes:
    """Return a PNG that states another size, or states it twice, or that is a bomb."""
    width, height = random.choice(_SIDES), random.choice(_SIDES)
    header = _chunk(b"IHDR", struct.pack(">2I", width, height) + content[24:29])
    rest = content[33:]
    kind = random.choice(("size", "twice", "bomb", "frames"))
    if kind == "size":
        return _PNG + header + rest
    if kind == "twice":
        return content[:33] + header + rest
    if kind == "frames":
        count = struct.pack(">2I", random.choice((0, 1, 2**31)), 0)
        place = struct.pack(">5I2H2B", 0, width, height, 0, 0, 1, 1, 0, 0)
        return content[:33] + _chunk(b"acTL", count) + _chunk(b"fcTL", place) + rest
    profile = b"x\0\0" + zlib.compress(bytes(random.choice((1 << 16, 1 << 26))))
    return content[:33] + _chunk(b"iCCP", profile) + rest


def lie_of_jpeg(content: bytes, random: Random) -> bytes:
    """Return a JPEG of another stated size, of many scans, or with markers that hide its size."""
    kind = random.choice(("size", "scans", "hidden", "exif"))
    if kind == "size":
        found = max(content.find(b"\xff\xc0"), content.find(b"\xff\xc2"))
        sides = [side.to_bytes(2, "big") for side in _SIDES if side < 2**16]
        return (
            content[: found + 5]
            + random.choice(sides)
            + random.choice(sides)
            + content[found + 9 :]
        )
    if kind == "scans":
        scan = content[content.rindex(b"\xff\xda") : -2]
        return content[:-2] + scan * random.choice((1, 10, 1000)) + content[-2:]
    if kind == "exif":
        body = b"Exif\0\0MM\0*\0\0\0\x08" + random.choice((b"\xff\xff", b"\0\1")) + b"\xff" * 200
        return content[:2] + b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body + content[2:]
    marker = random.choice((b"\xff\x01", b"\xff\xff", b"\xff\xd0", b"\xff\x00"))
    comment = b"\xff\xfe" + (random.choice((2, 100, 65_535))).to_bytes(2, "big") + bytes(100)
    return content[:2] + marker + comment + content[2:]


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
