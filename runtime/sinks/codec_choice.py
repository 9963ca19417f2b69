"""Which codec an overlay MP4 gets, decided once by what is on the machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from dedos_deploy.errors import SinkError
from dedos_deploy.runtime.sinks.codecs import Encoder, JpegPictures, Vp8Pictures
from dedos_deploy.runtime.sinks.h264 import h264_candidates, open_h264, works
from dedos_deploy.spec import CODECS, Codec

Opener = Callable[[tuple[int, int]], Encoder]
NO_H264 = (
    "GStreamer's tools, or PyAV (extra h264, with x264, which is GPL), bring an encoder for H.264"
)


@dataclass(frozen=True)
class Choice:
    """A codec and who encodes it."""

    described: str
    open: Opener
    """Returns the encoder for pictures of a size that `size_for` gave."""

    any_size: bool = False
    """Whether sides may be odd."""

    def size_for(self, size_hw: tuple[int, int]) -> tuple[int, int]:
        """Return the size of encoded pictures of a size."""
        return size_hw if self.any_size else even(size_hw)


def even(size_hw: tuple[int, int]) -> tuple[int, int]:
    """Return the next even size, which is all that most video codecs take."""
    return size_hw[0] + size_hw[0] % 2, size_hw[1] + size_hw[1] % 2


def choose(codec: Codec, suffix: str = ".mp4", *, growing: bool = False) -> Choice:
    """Return what encodes a video.

    codec: `auto` is H.264 where there is an encoder, else VP8, and in files that grow JPEG; suffix:
    `.mp4`, or `.webm`, which holds VP8; growing: whether every picture must come out at once. Raises
    SinkError when there is none.
    """
    if codec not in CODECS:
        raise SinkError(f"a codec is one of {', '.join(CODECS)}, not {codec!r}")
    if suffix == ".webm":
        if codec not in ("auto", "vp8"):
            raise SinkError(f"a .webm holds vp8, not {codec}; write .mp4, or leave the codec out")
        return Choice("VP8", lambda _: Vp8Pictures())
    if codec == "auto" and growing:
        codec = "jpeg"
    if codec == "jpeg":
        return Choice(
            "JPEG, which no browser plays in MP4", lambda _: JpegPictures(), any_size=True
        )
    if codec in ("auto", "h264"):
        # Not more are tried than up to the first that works.
        names = (name for name in h264_candidates() if name == "av" or not growing)
        name = next(filter(works, names), None)
        if name is not None:
            return Choice(f"H.264 by {_named(name)}", partial(open_h264, name))
        if codec == "h264":
            of = " of a live source" if growing else ""
            raise SinkError(f"there is no encoder for H.264{of} here; {NO_H264}; or choose vp8")
    return Choice("VP8, as nothing here encodes H.264", lambda _: Vp8Pictures())


def _named(name: str) -> str:
    return "PyAV" if name == "av" else f"GStreamer's {name.removeprefix('gst:')}"
