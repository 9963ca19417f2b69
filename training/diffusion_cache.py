"""Latent codes and denoised images on disk: constants of an image under a frozen diffusion model."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from dedos_deploy.errors import BadInputError
from dedos_deploy.text.vocabulary_file import write_atomically
from dedos_deploy.training.diffusion import LatentDiffusion

_LOG = logging.getLogger(__name__)

_PREFIX = 16
"""Hex digits of the diffusion's fingerprint that name its folder."""


class DiffusionCache:
    """One file per image: `latents` float16 [c, h, w] and `after`, x_a as a PNG (lossless).

    Files lie in a folder named after the diffusion's fingerprint, so another model, other timesteps
    or another size never read them. Several processes may share it: files are written whole under a
    temporary name and renamed; two that write the same one write the same bytes.

    folder: made if missing. Raises BadInputError when it cannot be made.
    """

    def __init__(self, folder: Path, diffusion: LatentDiffusion) -> None:
        self.diffusion = diffusion
        self.folder = folder.expanduser() / diffusion.fingerprint[:_PREFIX]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadInputError(
                f"cannot make diffusion cache {self.folder} ({error.strerror}); choose another "
                "folder"
            ) from error

    def path(self, key: str) -> Path:
        """Return the file of the image called `key`; a subfolder for its first two digits."""
        return self.folder / key[:2] / f"{key}.safetensors"

    def latents_and_decoded(self, keys: Sequence[str], images: Tensor) -> tuple[Tensor, Tensor]:
        """Return latents float32 [B, c, h, w] and x_a uint8 [B, H, W, 3] of the images.

        keys: one per image; images: uint8 BGR [B, H, W, 3], used where nothing is stored yet.

        Raises BadInputError when a file cannot be written.
        """
        found = [self._read(self.path(key)) for key in keys]
        missing = [index for index, pair in enumerate(found) if pair is None]
        if missing:
            for index, pair in zip(missing, self._compute(images[missing]), strict=True):
                self._write(self.path(keys[index]), pair)
                found[index] = pair
        pairs = [pair for pair in found if pair is not None]
        latents = torch.stack([latents for latents, _ in pairs]).float()
        return latents.to(images.device), torch.stack([x for _, x in pairs]).to(images.device)

    def holds(self, key: str) -> bool:
        """Whether an image is stored; a damaged file counts as stored until it is read."""
        return self.path(key).is_file()

    def _compute(self, images: Tensor) -> list[tuple[Tensor, Tensor]]:
        # Through float16 here, too, so that a hit and a miss give the same bits.
        latents = self.diffusion.encode(images).half()
        after = self.diffusion.decode(self.diffusion.denoise(latents.float()).latents)
        return list(zip(latents.cpu(), after.cpu(), strict=True))

    def _read(self, path: Path) -> tuple[Tensor, Tensor] | None:
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                return file.get_tensor("latents"), _from_png(file.get_tensor("after"))
        except (SafetensorError, OSError) as error:
            _LOG.warning("cached diffusion file %s is damaged (%s); it is made again", path, error)
            return None

    def _write(self, path: Path, pair: tuple[Tensor, Tensor]) -> None:
        latents, after = pair
        try:
            path.parent.mkdir(exist_ok=True)
            write_atomically(path, save({"latents": latents.contiguous(), "after": _png(after)}))
        except OSError as error:
            raise BadInputError(
                f"cannot write diffusion cache {path} ({os.strerror(error.errno or 0)}); make room "
                "or train without --diffusion-cache"
            ) from error


def _png(image_bgr: Tensor) -> Tensor:
    """Return the bytes of a PNG file, uint8 [n], of uint8 [H, W, 3]."""
    import cv2

    _, encoded = cv2.imencode(".png", image_bgr.numpy(), (cv2.IMWRITE_PNG_COMPRESSION, 3))
    return torch.from_numpy(encoded.ravel())


def _from_png(encoded: Tensor) -> Tensor:
    import cv2

    return torch.from_numpy(cv2.imdecode(encoded.numpy(), cv2.IMREAD_COLOR))
