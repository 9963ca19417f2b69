"""An image as a whole in a few numbers, from what its words have no part in, beside the scores."""

from __future__ import annotations

import torch
from torch import Tensor

from dedos_deploy.errors import BadInputError
from dedos_deploy.model.dedos import Dedos, ImageFeatures
from dedos_deploy.model.freeze import AnyModel, FrozenDedos
from dedos_deploy.model.heads import DenseClip


class PooledDedos(FrozenDedos):
    """A frozen model, (image, text, valid) as FrozenDedos -> its scores, and float32 [B, P].

    P are means and standard deviations of feature maps over the image, in float32 whatever the maps are.
    """

    def __init__(self, frozen: FrozenDedos) -> None:
        """frozen: whose modules it shares. Raises BadInputError for a model without such features."""
        check_has_pooled(frozen.model)
        super().__init__(frozen.model, frozen.score_dtype)
        self.eval()

    def forward(self, image: Tensor, text: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        model, batch = self.model, image.shape[0]
        if isinstance(model, Dedos):
            features = model.image_features(image)
            scores = model.scores_of(features, text, valid)
            pooled = torch.cat(
                [_moments(each.flatten(2)) for each in _pooled_maps(features)], dim=1
            )
        else:
            assert isinstance(model, DenseClip), "by check_has_pooled"
            patches = model.image_features(image)
            scores = model.scores_of(patches, text, valid, image.shape[1:3])
            # Windows come one after another, each for all images.
            windows = patches.reshape(-1, batch, *patches.shape[1:]).permute(1, 3, 0, 2)
            pooled = _moments(windows.flatten(2))
        return scores.to(self.score_dtype), pooled


def _pooled_maps(features: ImageFeatures) -> tuple[Tensor, ...]:
    """Return the maps that tell kinds of frames apart best (docs/trust.md): the coarsest level, which knows
    what is there, and the two finest of the detail branch, which know textures and light."""
    return features.levels[0], *features.detail[:2]


def pooled_widths(model: AnyModel) -> tuple[int, ...]:
    """Return how many numbers of an image PooledDedos gives, per block. Raises BadInputError as it does."""
    check_has_pooled(model)
    if isinstance(model, DenseClip):
        return (2 * model.config.clip.text_width,)
    assert isinstance(model, Dedos), "by check_has_pooled"
    detail = model.detail.widths[:2] if model.detail is not None else ()
    return tuple(2 * width for width in (model.config.query_width, *detail))


def check_has_pooled(model: AnyModel) -> None:
    """Raise BadInputError for a model whose features of an image cannot be told from its words."""
    if not isinstance(model, Dedos | DenseClip):
        raise BadInputError(
            f"trust needs a DEDOS model or a dense CLIP, not a {type(model).__name__}; leave --trust out"
        )


def _moments(maps: Tensor) -> Tensor:
    """Return mean and standard deviation of each channel, [B, 2 C], of [B, C, N]."""
    values = maps.float()
    mean = values.mean(-1)
    spread = (values - mean.unsqueeze(-1)).square().mean(-1).clamp_min(1e-12).sqrt()
    return torch.cat([mean, spread], dim=1)
