"""What the peers share on the way from the network's picture to CLIP's."""

from __future__ import annotations

from torch import Tensor

from dedos_deploy.model.blocks import resize_map


def resized(image: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Return uint8 [B, H, W, 3] resized bilinearly without antialiasing; itself when it fits.

    Otherwise float32, still 0 to 255. The peers' own code shrinks normalised pictures this way,
    which is the same: the weights of each pixel sum to one.
    """
    if (image.shape[1], image.shape[2]) == size_hw:
        return image
    # The cast comes first: TensorRT refuses Transpose on uint8.
    planes = image.float().permute(0, 3, 1, 2)
    return resize_map(planes, size_hw).permute(0, 2, 3, 1)
