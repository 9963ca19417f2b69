"""The authors' CAT-Seg, built from a checkout of their repository."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dedos_deploy.spec import SCORE_STRIDE
from parity.authors import Authors, enliven
from parity.pictures import CLASSES
from parity.stand_ins import package, stand_in_detectron2


@dataclass(frozen=True)
class CatSegSize:
    """Numbers of one CAT-Seg; vision, text: (width, layers, heads); clip: (patch, grid, text width);
    lifted, projected, decoder: channels of the decoder's guidance, projected, and of its steps.
    """

    vision: tuple[int, int, int]
    text: tuple[int, int, int]
    clip: tuple[int, int, int]
    width: int = 128
    lifted: tuple[int, int] = (256, 128)
    projected: tuple[int, int] = (32, 16)
    decoder: tuple[int, int] = (64, 32)
    tokens: tuple[int, int] = (49408, 77)


CAT_SEG_SIZES = {
    "b": CatSegSize((768, 12, 12), (512, 12, 8), (16, 14, 512)),
    "l": CatSegSize((1024, 24, 16), (768, 12, 12), (14, 24, 768)),
    "micro": CatSegSize((16, 12, 1), (8, 1, 1), (16, 3, 12), 16, (8, 4), (8, 4), (16, 16), (40, 8)),
}


def authors_cat_seg(repository: Path, size: CatSegSize) -> Authors:
    """Return the authors' CAT-Seg, with random weights that leave nothing inert."""
    stand_in_detectron2()
    for part in ("", "modeling", "modeling/transformer", "modeling/heads", "third_party"):
        name = ".".join(["cat_seg", *part.split("/")]) if part else "cat_seg"
        package(name, repository / "cat_seg" / part)
    head = importlib.import_module("cat_seg.modeling.heads.cat_seg_head").CATSegHead
    network = importlib.import_module("cat_seg.cat_seg_model").CATSeg(
        backbone=None,
        sem_seg_head=head(
            num_classes=CLASSES,
            feature_resolution=[24, 24],
            transformer_predictor=_predictor(size),
        ),
        size_divisibility=32,
        pixel_mean=(0.0,),
        pixel_std=(1.0,),
        clip_pixel_mean=[122.7709383, 116.7460125, 104.09373615],
        clip_pixel_std=[68.5005327, 66.6321579, 70.3231630],
        train_class_json="",
        test_class_json="",
        sliding_window=False,
        clip_finetune="attention",
        backbone_multiplier=0.0,
        clip_pretrained="ViT-B/16" if size.clip[0] == 16 else "ViT-L/14@336px",
    )
    network.upsample1 = nn.ConvTranspose2d(size.vision[0], size.lifted[0], 2, stride=2)
    network.upsample2 = nn.ConvTranspose2d(size.vision[0], size.lifted[1], 4, stride=4)
    network.eval()
    enliven(network)
    quarter = partial(_cat_seg_scores, network, SCORE_STRIDE)
    return Authors(network, quarter, partial(_cat_seg_scores, network, 1))


def _predictor(size: CatSegSize) -> Any:
    """Their predictor without its constructor, which downloads a CLIP and encodes words."""
    kind = importlib.import_module("cat_seg.modeling.transformer.cat_seg_predictor").CATSegPredictor
    model = importlib.import_module("cat_seg.modeling.transformer.model")
    predictor = kind.__new__(kind)
    nn.Module.__init__(predictor)
    predictor.clip_model = _their_clip(size)
    predictor.class_texts = predictor.test_class_texts = predictor.prompt_templates = []
    predictor.transformer = model.Aggregator(
        text_guidance_dim=size.clip[2],
        text_guidance_proj_dim=size.width,
        appearance_guidance_dim=size.clip[2],
        appearance_guidance_proj_dim=size.width,
        decoder_dims=size.decoder,
        decoder_guidance_dims=size.lifted,
        decoder_guidance_proj_dims=size.projected,
        num_layers=2,
        hidden_dim=size.width,
        pooling_size=(2, 2),
    )
    return predictor


def _their_clip(size: CatSegSize) -> Any:
    model = importlib.import_module("cat_seg.third_party.model_vpt")
    (width, layers, heads), (text_width, text_layers, text_heads) = size.vision, size.text
    patch, grid, embed = size.clip
    vocabulary, context = size.tokens
    # Its constructor knows no heads of less than 64 channels: the towers of `micro` come after it.
    clip = model.CLIP(embed, patch, 0, 64, patch, context, vocabulary, 64, 1, 0)
    clip.visual = model.VisualTransformer(grid * patch, patch, width, layers, heads, embed, 0, 0)
    mask = clip.build_attention_mask()
    clip.transformer = model.Transformer(text_width, text_layers, text_heads, mask)
    clip.token_embedding = nn.Embedding(vocabulary, text_width)
    clip.positional_embedding = nn.Parameter(torch.randn(context, text_width) * 0.01)
    clip.ln_final = model.LayerNorm(text_width)
    clip.text_projection = nn.Parameter(torch.randn(text_width, embed) * text_width**-0.5)
    return clip


def _cat_seg_scores(network: Any, stride: int, image: Tensor, text: Tensor) -> Tensor:
    network.sem_seg_head.predictor.cache = text[:, None]
    height, width = image.shape[2] // stride, image.shape[3] // stride
    result = network([{"image": image[0].float(), "height": height, "width": width}])
    scores: Tensor = result[0]["sem_seg"]
    return scores
