"""Latent codes and denoised images on disk: constants of an image under a frozen diffusion model."""

from __future__ import annotations

import logging
import os
import re
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from dedos_deploy.errors import BadInputError
from dedos_deploy.files import write_atomically
from dedos_deploy.training.diffusion.walk import LatentDiffusion

_LOG = logging.getLogger(__name__)

_PREFIX = 16
"""Hex digits of the diffusion's fingerprint that name its folder."""

_KEY = re.compile(r"[0-9A-Za-z_-]{2,128}")


@dataclass
class CacheCounts:
    """What a cache did so far: images read and computed, and the seconds of each part."""

    read: int = 0
    computed: int = 0
    read_s: float = 0.0
    encode_s: float = 0.0
    walk_s: float = 0.0
    decode_s: float = 0.0


class DiffusionCache:
    """One file per image: `latents` float16 [c, h, w] and `after`, x_a as a PNG (lossless).

    Files lie in a folder named after the diffusion's fingerprint, so another model, other timesteps
    or another size never read them. Several processes may share it: files are written whole under a
    temporary name and renamed; two that write the same one write the same image. Each file carries
    a checksum of its content, and one that is damaged is made again, with a warning.

    folder: made if missing; max_bytes: once the files of this diffusion take that much, further
    images are computed each time they are asked for (None: no limit).

    Raises BadInputError when the folder cannot be made, or where noise is added: what depends on
    noise is no constant of the image.
    """

    def __init__(
        self, folder: Path, diffusion: LatentDiffusion, *, max_bytes: int | None = None
    ) -> None:
        if diffusion.settings.add_noise:
            raise BadInputError(
                "a diffusion cache cannot hold walks with added noise, which differ each time; "
                "leave out the cache or the noise"
            )
        self.diffusion = diffusion
        self.folder = Path(os.path.expanduser(folder)) / diffusion.fingerprint[:_PREFIX]
        self.counts = CacheCounts()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadInputError(
                f"cannot make diffusion cache {self.folder} ({error.strerror}); choose another "
                "folder"
            ) from error
        self._room: int | None = None if max_bytes is None else max_bytes - self.stored_bytes()

    def path(self, key: str) -> Path:
        """Return the file of the image called `key`; a subfolder for its first two digits.

        Raises BadInputError for a key that cannot name a file.
        """
        if not _KEY.fullmatch(key):
            raise BadInputError(
                f"the image key {key!r} cannot name a file; use 2 to 128 letters, digits, - and _"
            )
        return self.folder / key[:2] / f"{key}.safetensors"

    def holds(self, key: str) -> bool:
        """Whether an image is stored; a damaged file counts as stored until it is read."""
        return self.path(key).is_file()

    @property
    def full(self) -> bool:
        """Whether an image was not kept for want of the room that `max_bytes` gives."""
        return self._room is not None and self._room < 0

    @property
    def limited(self) -> bool:
        """Whether `max_bytes` bounds it."""
        return self._room is not None

    def stored_bytes(self) -> int:
        """Return what the stored images take on disk."""
        return sum(file.stat().st_size for file in self.folder.glob("*/*.safetensors"))

    def stored(self, key: str) -> tuple[Tensor, Tensor] | None:
        """Return latents float16 [c, h, w] and x_a uint8 [H, W, 3] of an image, None if not there."""
        return self._read(self.path(key))

    def latents_and_decoded(self, keys: Sequence[str], images: Tensor) -> tuple[Tensor, Tensor]:
        """Return latents float32 [B, c, h, w] and x_a uint8 [B, H, W, 3] of the images.

        keys: one per image, made of its pixels; images: uint8 BGR [B, H, W, 3], used where nothing
        is stored yet. Both are returned on the device of `images`.

        Raises BadInputError when a file cannot be written.
        """
        found = [self.stored(key) for key in keys]
        missing = [index for index, pair in enumerate(found) if pair is None]
        if missing:
            for index, pair in zip(missing, self._compute(images[missing]), strict=True):
                self._write(self.path(keys[index]), pair)
                found[index] = pair
        pairs = [pair for pair in found if pair is not None]
        latents = torch.stack([latents.float() for latents, _ in pairs])
        return latents.to(images.device), torch.stack([x for _, x in pairs]).to(images.device)

    def _compute(self, images: Tensor) -> list[tuple[Tensor, Tensor]]:
        # What is stored must depend neither on a caller's autocast nor on whether it was read:
        # latents go through float16 here, too, so that a hit and a miss give the same bits.
        start = time.perf_counter()
        with torch.autocast(self.diffusion.device.type, enabled=False):
            latents = self.diffusion.encode(images).half()
            encoded = self._now()
            walked = self.diffusion.denoise(latents.float()).latents
            denoised = self._now()
            after = self.diffusion.decode(walked).cpu()
        counts = self.counts
        counts.computed += len(images)
        counts.encode_s += encoded - start
        counts.walk_s += denoised - encoded
        counts.decode_s += time.perf_counter() - denoised
        return list(zip(latents.cpu(), after, strict=True))

    def _now(self) -> float:
        """Return the time at which everything asked of a GPU so far is done."""
        if self.diffusion.device.type == "cuda":
            torch.cuda.synchronize(self.diffusion.device)
        return time.perf_counter()

    def _read(self, path: Path) -> tuple[Tensor, Tensor] | None:
        """Return latents and x_a of a file; None where there is none, or none that can be used."""
        start = time.perf_counter()
        try:
            stored = load(path.read_bytes())
            pair = stored["latents"], _from_png(stored["after"])
            if int(stored["crc32"]) != _crc32(stored["latents"], stored["after"]):
                raise ValueError("its checksum differs")
        except FileNotFoundError:
            return None
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            _LOG.warning("cached diffusion file %s is damaged (%s); it is made again", path, error)
            return None
        self.counts.read += 1
        self.counts.read_s += time.perf_counter() - start
        return pair

    def _write(self, path: Path, pair: tuple[Tensor, Tensor]) -> None:
        latents, after = pair[0].contiguous(), _to_png(pair[1])
        crc32 = torch.tensor(_crc32(latents, after))
        data = save({"latents": latents, "after": after, "crc32": crc32})
        if not self._fits(len(data)):
            return
        try:
            path.parent.mkdir(exist_ok=True)
            write_atomically(path, data)
        except OSError as error:
            raise BadInputError(
                f"cannot write diffusion cache {path} ({os.strerror(error.errno or 0)}); make room "
                "or train without --diffusion-cache"
            ) from error

    def _fits(self, size: int) -> bool:
        if self._room is None:
            return True
        if self._room < size:
            if not self.full:
                _LOG.warning("diffusion cache %s is full; further images are not kept", self.folder)
            self._room = -1
            return False
        self._room -= size
        return True


def _crc32(*tensors: Tensor) -> int:
    value = 0
    for tensor in tensors:
        value = zlib.crc32(tensor.view(torch.uint8).numpy().tobytes(), value)
    return value


def _to_png(image_bgr: Tensor) -> Tensor:
    """Return the bytes of a PNG file, uint8 [n], of uint8 [H, W, 3]."""
    import cv2

    _, encoded = cv2.imencode(".png", image_bgr.numpy(), (cv2.IMWRITE_PNG_COMPRESSION, 3))
    return torch.from_numpy(encoded.ravel())


def _from_png(encoded: Tensor) -> Tensor:
    import cv2

    image = cv2.imdecode(encoded.numpy(), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError("its image cannot be decoded")
    return torch.from_numpy(image)
