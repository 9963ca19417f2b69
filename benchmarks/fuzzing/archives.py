"""Zip files that lie: about sizes, places, names and kinds of their members."""

from __future__ import annotations

import io
import struct
import zipfile
from random import Random

from fuzzing.mutators import INTEGERS

_EPOCH = (1980, 1, 1, 0, 0, 0)
_CENTRAL = b"PK\1\2"
_LOCAL = b"PK\3\4"
# Offset and width of the fields that say where a member lies and what it is.
_CENTRAL_FIELDS = {
    "made by": (4, 2),
    "flags": (8, 2),
    "method": (10, 2),
    "crc": (16, 4),
    "packed": (20, 4),
    "size": (24, 4),
    "name length": (28, 2),
    "extra length": (30, 2),
    "comment length": (32, 2),
    "attributes": (38, 4),
    "place": (42, 4),
}
_LOCAL_FIELDS = {
    "flags": (6, 2),
    "method": (8, 2),
    "crc": (14, 4),
    "packed": (18, 4),
    "size": (22, 4),
    "name length": (26, 2),
    "extra length": (28, 2),
}
NAMES = (
    "../outside",
    "/etc/outside",
    "a/../../outside",
    "C:\\outside",
    "a\\b",
    "CON",
    "nul.txt",
    ".",
    "..",
    "",
    "a" * 5000,
    "a/" * 2000 + "a",
    "manifest.json/",
    "MANIFEST.JSON",
    "model.onnx.",
    "model.onnx ",
    "model.onnx/x",
    "vocabularies",
    "\u202exnno.ledom",
    "x\ny",
    "x\x1b[2J",
    "engines/x",
)
_MODES = (0o120777, 0o010644, 0o020644, 0o060644, 0o140644, 0o040755, 0o104755)
"""Link, FIFO, character and block device, socket, folder, set-user-id."""

BOMB_BYTES = 96 << 20


def pack(files: dict[str, bytes], *, modes: dict[str, int] | None = None) -> bytes:
    """Return a zip of files with fixed times; modes: Unix modes of some of them."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo(name, _EPOCH)
            info.create_system = 3
            info.external_attr = (modes or {}).get(name, 0o100644) << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, content)
    return packed.getvalue()


def lying_zip(files: dict[str, bytes], random: Random) -> bytes:
    """Return a zip of a bundle's files in which something is not as it is said."""
    kind = random.choice(("field", "field", "overlap", "name", "mode", "twice", "bomb", "end"))
    if kind == "name":
        return pack({**files, random.choice(NAMES): b"x"})
    if kind == "mode":
        name = random.choice(sorted(files))
        return pack(
            files | {name: random.choice((files[name], b"/etc/passwd"))},
            modes={name: random.choice(_MODES)},
        )
    if kind == "twice":
        return _doubled(pack(files), random)
    if kind == "bomb":
        return pack({**files, "bomb.bin": bytes(random.choice((1 << 20, BOMB_BYTES)))})
    content = bytearray(pack(files))
    if kind == "overlap":
        _overlap(content, random)
    elif kind == "end":
        at = content.rindex(b"PK\5\6") + random.choice((4, 6, 8, 10, 12, 16, 20))
        _put(content, at, 2 if at % 4 else 4, random.choice(INTEGERS))
    else:
        _lie(content, random)
    return bytes(content)


def _lie(content: bytearray, random: Random) -> None:
    """Change a field in the directory, in a member's own header, or alike in both."""
    for signature, fields in ((_CENTRAL, _CENTRAL_FIELDS), (_LOCAL, _LOCAL_FIELDS)):
        if random.random() < 0.6:
            start = random.choice(_places(content, signature))
            offset, width = fields[random.choice(sorted(fields))]
            _put(content, start + offset, width, random.choice(INTEGERS))


def _overlap(content: bytearray, random: Random) -> None:
    """Let one member lie where another one does."""
    members = _places(content, _CENTRAL)
    one, other = random.choice(members), random.choice(members)
    fields = [_CENTRAL_FIELDS["place"]]
    if random.random() < 0.5:
        fields += [_CENTRAL_FIELDS[name] for name in ("crc", "packed", "size")]
    for offset, width in fields:
        content[one + offset : one + offset + width] = content[
            other + offset : other + offset + width
        ]


def _doubled(content: bytes, random: Random) -> bytes:
    """List one member of the directory several times."""
    places = _places(content, _CENTRAL)
    number = random.randrange(len(places))
    end = content.rindex(b"PK\5\6")
    stop = places[number + 1] if number + 1 < len(places) else end
    times = random.choice((1, 2, 5000))
    directory = content[places[0] : end] + content[places[number] : stop] * times
    count = len(places) + times
    tail = struct.pack(
        "<4s4H2IH", b"PK\5\6", 0, 0, count & 0xFFFF, count & 0xFFFF, len(directory), places[0], 0
    )
    return content[: places[0]] + directory + tail


def _places(content: bytes | bytearray, signature: bytes) -> list[int]:
    found, at = [], content.find(signature)
    while at >= 0:
        found.append(at)
        at = content.find(signature, at + 1)
    return found


def _put(content: bytearray, at: int, width: int, value: int) -> None:
    content[at : at + width] = (value % 2 ** (8 * width)).to_bytes(width, "little")
