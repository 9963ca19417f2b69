"""The authors' SAN, built from a checkout of their repository."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dedos_deploy.spec import SCORE_STRIDE
from parity.authors import Authors, enliven
from parity.pictures import SIZE
from parity.stand_ins import package, stand_in, stand_in_detectron2


@dataclass(frozen=True)
class SanSize:
    """Numbers of one SAN; vision, text: (width, layers, heads); clip: (patch, image, text width)."""

    vision: tuple[int, int, int]
    text: tuple[int, int, int]
    clip: tuple[int, int, int]
    split: int
    scale: float
    side: tuple[int, int]
    embed: int
    queries: int
    tokens: tuple[int, int] = (49408, 77)


SAN_SIZES = {
    "b": SanSize((768, 12, 12), (512, 12, 8), (16, 224, 512), 9, 0.5, (240, 8), 256, 100),
    "l": SanSize((1024, 24, 16), (768, 12, 12), (14, 336, 768), 18, 0.7, (240, 8), 256, 100),
    "micro": SanSize((24, 4, 3), (12, 1, 1), (14, 56, 12), 3, 0.7, (12, 4), 8, 5, (40, 8)),
}


def authors_san(repository: Path, size: SanSize) -> Authors:
    """Return the authors' SAN, with random weights that leave nothing inert."""
    stand_in_detectron2()
    package("san", repository / "san")
    package("san.model", repository / "san/model")
    stand_in("san.model.criterion", "san.model.matcher")
    parts = importlib.import_module("san.model.san")
    clip = _open_clip(size)
    network = parts.SAN(
        clip_visual_extractor=parts.FeatureExtractor(clip.visual, size.split),
        clip_rec_head=parts.RecWithAttnbiasHead(
            clip.visual,
            size.split,
            sos_token_format="cls_token",
            sos_token_num=size.queries,
            cross_attn=False,
            downsample_method="max",
        ),
        side_adapter_network=_side_adapter(size),
        ov_classifier=parts.LearnableBgOvClassifier(clip),
        criterion=None,
        size_divisibility=32,
        clip_resolution=size.scale,
        pixel_mean=[255 * value for value in (0.48145466, 0.4578275, 0.40821073)],
        pixel_std=[255 * value for value in (0.26862954, 0.26130258, 0.27577711)],
        sem_seg_postprocess_before_inference=True,
    )
    network.eval()
    enliven(network)
    return Authors(network, partial(_san_scores, network), partial(_san_whole, network))


def _open_clip(size: SanSize) -> Any:
    model = importlib.import_module("open_clip.model")
    (width, layers, heads), (text_width, text_layers, text_heads) = size.vision, size.text
    patch, image, embed = size.clip
    vocabulary, context = size.tokens
    clip = model.CLIP(
        embed,
        model.CLIPVisionCfg(layers, width, width // heads, patch_size=patch, image_size=image),
        model.CLIPTextCfg(context, vocabulary, text_width, text_heads, text_layers),
        quick_gelu=True,
    )
    # Their code was written for this release; a newer one has tokens and batch the other way round.
    assert not hasattr(clip.visual.transformer, "batch_first"), "use open_clip_torch 2.16.0"
    return clip


def _side_adapter(size: SanSize) -> nn.Module:
    side = importlib.import_module("san.model.side_adapter.side_adapter")
    timm = importlib.import_module("timm.models.vision_transformer")
    width, layers = size.side
    network: nn.Module = side.RegionwiseSideAdapterNetwork(
        vit_model=timm.VisionTransformer(
            img_size=SIZE if layers == 8 else 64,
            patch_size=16,
            embed_dim=width,
            depth=layers,
            num_heads=6,
            fc_norm=False,
            num_classes=0,
            embed_layer=side.PatchEmbed,
        ),
        fusion_layers=nn.ModuleDict(
            {
                f"layer_{index}": side.build_fusion_layer("add", size.vision[0], width)
                for index in range(4)
            }
        ),
        mask_decoder=side.MLPMaskDecoder(
            in_channels=width,
            total_heads=size.vision[2],
            embed_channels=size.embed,
            mlp_channels=size.embed,
            rescale_attn_bias=True,
        ),
        num_queries=size.queries,
        fusion_map={index: index * size.split // 3 for index in range(4)},
        deep_supervision_idxs=[layers - 1, layers],
    )
    return network


def _san_rows(network: Any, text: Tensor) -> Tensor:
    return F.normalize(torch.cat([text, network.ov_classifier.bg_embed]), dim=-1)


def _san_scores(network: Any, image: Tensor, text: Tensor) -> Tensor:
    """Their modules in their order, with the masks resized to the score map only."""
    _, _, height, width = image.shape
    normal = (image.float() - network.pixel_mean) / network.pixel_std
    small = F.interpolate(normal, scale_factor=network.clip_resolution, mode="bilinear")
    features = network.clip_visual_extractor(small)
    masks, biases = network.side_adapter_network(normal, features)
    embedded = network.clip_rec_head(features, biases[-1], normalize=True)
    rows = network.ov_classifier.logit_scale.exp() * _san_rows(network, text)
    size_hw = (height // SCORE_STRIDE, width // SCORE_STRIDE)
    resized = F.interpolate(masks[-1], size=size_hw, mode="bilinear", align_corners=False)
    scores: Tensor = network.semantic_inference(embedded[0] @ rows.t(), resized[0])
    return scores


def _san_whole(network: Any, image: Tensor, text: Tensor) -> Tensor:
    rows = _san_rows(network, text)
    network.ov_classifier.get_classifier_by_vocabulary = lambda words: rows
    result: Tensor = network([{"image": image[0], "vocabulary": ["any"]}])[0]["sem_seg"]
    return result
