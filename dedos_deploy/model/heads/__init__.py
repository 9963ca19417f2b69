"""Dense heads without training: CLIP as it was published labels every pixel."""

from dedos_deploy.model.heads.dense_clip import DenseClip, build_dense
from dedos_deploy.model.heads.null_words import STUFF_WORDS

__all__ = ["STUFF_WORDS", "DenseClip", "build_dense"]
