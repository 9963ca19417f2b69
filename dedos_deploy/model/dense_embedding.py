"""What is where in a picture, in the space of the words: what words by example are made of."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dedos_deploy.errors import BadInputError
from dedos_deploy.model.dedos import Dedos
from dedos_deploy.model.freeze import AnyModel, FrozenDedos
from dedos_deploy.model.heads import DenseClip


class DedosEmbedding(nn.Module):
    """(image uint8 [B, H, W, 3]) -> float32 [B, D, h, w]: Σ_q σ(mask logits[q]) · class embedding[q].

    What the class logits compare with the words, spread over the queries' masks as scores are. The words
    that the queries take part in are those of a fixed list.
    """

    def __init__(self, model: Dedos, text: Tensor) -> None:
        """text: float32 [K, D], unit rows."""
        super().__init__()
        self.model = model
        self.register_buffer("text", text)
        self.register_buffer("valid", torch.ones(len(text)))

    text: Tensor
    valid: Tensor

    def forward(self, image: Tensor) -> Tensor:
        model = self.model
        features = model.image_features(image)
        objects, logits = model.objects_of(features, self.text, self.valid)
        embedding = model.text_aggregation.embedding(objects, self.text, self.valid)
        batch, queries, height, width = logits.shape
        masks = logits.float().sigmoid().reshape(batch, queries, height * width)
        dense: Tensor = embedding.transpose(1, 2) @ masks
        return dense.reshape(batch, -1, height, width)


class DenseClipEmbedding(nn.Module):
    """(image uint8 [B, H, W, 3]) -> float32 [B, D, h, w]: the patches of a dense CLIP, at length 1."""

    def __init__(self, model: DenseClip) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        return self.model.embedding_map(image)


def check_has_embedding(model: AnyModel) -> None:
    """Raise BadInputError for a model without dense embeddings that know no words."""
    if not isinstance(model, Dedos | DenseClip):
        raise BadInputError(
            f"words by example need a DEDOS model or a dense CLIP, not a {type(model).__name__}; leave "
            "--examples out"
        )


def dense_embedding(frozen: FrozenDedos, text: Tensor) -> nn.Module:
    """Return the module of a frozen model's dense embeddings; text: float32 [K, D] of a base vocabulary.

    Raises BadInputError for a model that has none.
    """
    model: AnyModel = frozen.model
    check_has_embedding(model)
    if isinstance(model, Dedos):
        return DedosEmbedding(model, text).eval()
    assert isinstance(model, DenseClip)
    return DenseClipEmbedding(model).eval()
