"""SAN and CAT-Seg, read by us, against their authors' own modules with the same random weights.

The authors' module is built from a checkout of their repository, which stays outside this project;
its state dict is saved, read back by our reader, and both run on the same picture: largest difference
of the scores, share of pixels with the same label, and seconds of both cores of the eager module, of
ours, and of our graph in ONNX Runtime. `--golden` writes a small model of theirs with what it
computes, which the tests keep.

    pip install --target AUTHORS open_clip_torch==2.16.0 einops --no-deps
    PYTHONPATH=AUTHORS python benchmarks/peers.py san --repository SAN --size b --json
    PYTHONPATH=AUTHORS python benchmarks/peers.py san --repository SAN --golden tests/model/san_micro.npz
"""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from dedos_deploy import __version__
from dedos_deploy.errors import DedosError
from dedos_deploy.export.fuse_attention import fuse_attention
from dedos_deploy.export.graph import check_ops, image_graph, save_graph
from dedos_deploy.model.peers import Peer, San, freeze_peer, load_peer
from dedos_deploy.runtime.engines.agreement import label_agreement
from dedos_deploy.runtime.engines.onnx_runtime import OnnxEngine
from dedos_deploy.runtime.labelling import HostLabeller
from dedos_deploy.runtime.slots import SlotTable
from dedos_deploy.spec import SCORE_STRIDE, GraphSpec

CLASSES = 171
SIZE = 640
THREADS = 2


@dataclass(frozen=True)
class Authors:
    """One of their modules and how to run it.

    network: whose state dict is the checkpoint; scores: (uint8 RGB [1, 3, H, W], text) -> their
    scores [K, H / 4, W / 4] before any clipping; whole: the same at full size, as they evaluate.
    """

    network: nn.Module
    scores: Callable[[Tensor, Tensor], Tensor]
    whole: Callable[[Tensor, Tensor], Tensor]


class _Anything(ModuleType):
    """Stands in for libraries that their files import for training: every name is a no-op."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Name


class _Name:
    """A class, decorator and function that does nothing."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def register(self) -> Callable[[type], type]:
        return lambda kind: kind


def _stub(*names: str, **contents: object) -> None:
    """Put modules into sys.modules that have `contents`, and no-ops for all else."""
    for name in names:
        above: ModuleType | None = None
        for depth in range(1, name.count(".") + 2):
            path = ".".join(name.split(".")[:depth])
            if path not in sys.modules:
                sys.modules[path] = _Anything(path)
                sys.modules[path].__path__ = []  # type: ignore[attr-defined]
            if above is not None:
                setattr(above, path.rsplit(".", 1)[-1], sys.modules[path])
            above = sys.modules[path]
        vars(sys.modules[name]).update(contents)


class _Registry:
    def __init__(self, name: str = "") -> None:
        pass

    def register(self) -> Callable[[type], type]:
        return lambda kind: kind


def _stub_detectron2() -> None:
    _stub("detectron2.config", configurable=lambda function: function, CfgNode=dict)
    _stub("detectron2.modeling", META_ARCH_REGISTRY=_Registry(), SEM_SEG_HEADS_REGISTRY=_Registry())
    _stub("detectron2.modeling.postprocessing", sem_seg_postprocess=_postprocess)
    _stub("detectron2.modeling.backbone", "detectron2.data")
    _stub("detectron2.utils.memory", retry_if_cuda_oom=lambda function: function)
    _stub("detectron2.structures", ImageList=_ImageList)
    _stub("detectron2.utils.registry", Registry=_Registry)
    _stub("detectron2.utils.logger", log_first_n=lambda *args: None)
    _stub("detectron2.layers", Conv2d=nn.Conv2d, CNNBlockBase=_Block)
    _stub("fvcore.nn.weight_init", c2_xavier_fill=lambda layer: None)


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()


@dataclass(frozen=True)
class _ImageList:
    tensor: Tensor
    image_sizes: list[tuple[int, int]]

    @classmethod
    def from_tensors(cls, images: list[Tensor], divisibility: int) -> _ImageList:
        return cls(torch.stack(images), [(one.shape[1], one.shape[2]) for one in images])


def _postprocess(scores: Tensor, size: tuple[int, int], height: int, width: int) -> Tensor:
    cut = scores[:, : size[0], : size[1]][None]
    return F.interpolate(cut, size=(height, width), mode="bilinear", align_corners=False)[0]


def _package(name: str, folder: Path) -> None:
    """Make `name` importable file by file, without running its __init__."""
    module = ModuleType(name)
    module.__path__ = [str(folder)]
    sys.modules[name] = module


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
    _stub_detectron2()
    _package("san", repository / "san")
    _package("san.model", repository / "san/model")
    _stub("san.model.criterion", "san.model.matcher")
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
    _enliven(network)
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


def _enliven(network: nn.Module, noise: float = 0.02) -> None:
    """Give every tensor that starts as a constant some noise, so that no part is inert."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, value in network.named_parameters():
            if not name.endswith("logit_scale"):
                value += torch.randn(value.shape, generator=generator) * noise


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
    _stub_detectron2()
    for part in ("", "modeling", "modeling/transformer", "modeling/heads", "third_party"):
        name = ".".join(["cat_seg", *part.split("/")]) if part else "cat_seg"
        _package(name, repository / "cat_seg" / part)
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
    _enliven(network)
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


BUILDERS: dict[str, tuple[Callable[[Path, Any], Authors], dict[str, Any]]] = {
    "san": (authors_san, SAN_SIZES),
    "catseg": (authors_cat_seg, CAT_SEG_SIZES),
}


@dataclass(frozen=True)
class Inputs:
    """image: uint8 BGR [1, H, W, 3]; text: float32 [K, D], unit rows."""

    image: Tensor
    text: Tensor

    @classmethod
    def random(cls, size_hw: tuple[int, int], slots: int, width: int) -> Inputs:
        """A picture of soft blobs with noise, and words in random directions."""
        generator = torch.Generator().manual_seed(11)
        blobs = torch.rand(1, 3, 12, 12, generator=generator) * 255
        picture = F.interpolate(blobs, size=size_hw, mode="bicubic")
        picture += torch.randn(picture.shape, generator=generator) * 8
        image = picture.clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
        text = F.normalize(torch.randn(slots, width, generator=generator), dim=-1)
        return cls(image, text)

    @property
    def rgb(self) -> Tensor:
        """uint8 [1, 3, H, W], as the authors take it."""
        return self.image.flip(-1).permute(0, 3, 1, 2).contiguous()


@dataclass(frozen=True)
class Timed:
    """wall_s, cpu_s: of the fastest of some runs; cpu_s is process time over THREADS cores."""

    wall_s: float
    cpu_s: float


def timed(run: Callable[[], Any], runs: int) -> tuple[Any, Timed]:
    """Return the last result and the least times; other programs only ever add to them."""
    result, walls, spent = None, [], []
    for _ in range(runs):
        wall, cpu = time.perf_counter(), time.process_time()
        result = run()
        walls.append(time.perf_counter() - wall)
        spent.append((time.process_time() - cpu) / THREADS)
    return result, Timed(round(min(walls), 3), round(min(spent), 3))


def compare(name: str, size: str, repository: Path, *, runs: int) -> dict[str, Any]:
    """Return differences and times of theirs, ours and our graph at SIZE with CLASSES words."""
    torch.set_num_threads(THREADS)
    torch.manual_seed(3)
    build, sizes = BUILDERS[name]
    authors = build(repository, sizes[size])
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        checkpoint = Path(folder) / "published.pth"
        torch.save({"model": authors.network.state_dict()}, checkpoint)
        model = load_peer(checkpoint, name, preset=f"{name}-{size}")
        checkpoint.unlink()
        inputs = Inputs.random((SIZE, SIZE), CLASSES, model.config.clip.text_width)
        whole, eager = timed(lambda: authors.whole(inputs.rgb, inputs.text).numpy(), runs)
        theirs = authors.scores(inputs.rgb, inputs.text)
        ones = torch.ones(CLASSES)
        ours = _before_clipping(model, inputs, ones)
        scores = model(inputs.image, inputs.text, ones)[0].numpy()
        graph, deployed = _deployed(model, inputs, Path(folder), runs)
    return {
        "peer": model.config.preset,
        "max_abs": float((ours - theirs).abs().max()),
        "largest": float(theirs.max()),
        "same_labels": float((ours.argmax(0) == theirs.argmax(0)).float().mean()),
        "same_labels_full_size": float((_full_size(ours) == whole.argmax(0)).mean()),
        "graph_max_abs": float(np.abs(graph - scores).max()),
        "graph_same_labels": label_agreement(scores, graph, (SIZE, SIZE)),
        "theirs_eager": asdict(eager),
        "ours_deployed": asdict(deployed),
    }


def _before_clipping(model: Peer, inputs: Inputs, valid: Tensor) -> Tensor:
    scores = model.evidence if isinstance(model, San) else model
    return scores(inputs.image, inputs.text, valid)[0]  # type: ignore[no-any-return]


def _full_size(scores: Tensor) -> NDArray[np.int64]:
    resized = F.interpolate(scores[None], size=(SIZE, SIZE), mode="bilinear")
    labels: NDArray[np.int64] = resized[0].argmax(0).numpy()
    return labels


def _deployed(
    model: Peer, inputs: Inputs, folder: Path, runs: int
) -> tuple[NDArray[np.float32], Timed]:
    """Return the graph's scores [K, h, w], and the times of a frame from resize to label map."""
    spec = GraphSpec(SIZE, SIZE, model.config.clip.text_width)
    graph = image_graph(freeze_peer(model, size_hw=(SIZE, SIZE)), spec)
    for target in ("cpu", "rtx", "trt"):
        check_ops(graph, target)
    fuse_attention(graph)
    path = save_graph(graph, folder / "model.onnx")[0]
    del graph
    text, image = inputs.text.numpy(), inputs.image.numpy()
    ones = np.ones(CLASSES, np.float32)
    names = tuple(str(index) for index in range(CLASSES))
    ids = np.arange(CLASSES)
    table = SlotTable(
        1, names, tuple(ids), text, ones, np.zeros_like(ones), ids.astype(np.uint16), ()
    )
    with OnnxEngine(path, spec, threads=THREADS) as engine:
        scores = engine.infer({"image": image, "text": text, "valid": ones})["scores"][0].copy()
        labeller = HostLabeller(engine, threads=THREADS)
        _, times = timed(lambda: labeller.label(image[0], table), runs)
    return scores, times


GOLDEN_HW = {"san": (80, 160), "catseg": (96, 128)}
GOLDEN_SLOTS = 5


def write_golden(name: str, repository: Path, path: Path) -> None:
    """Write a small model of theirs, its input and what their code makes of it, as one .npz.

    Entries: `tensor:NAME` for their state dict, whose weights are exact in float16; image, text;
    scores float32 [K, H / 4, W / 4], before any clipping.
    """
    torch.manual_seed(3)
    build, sizes = BUILDERS[name]
    size = sizes["micro"]
    authors = build(repository, size)
    with torch.no_grad():
        _enliven(authors.network, 0.2)
        for value in authors.network.parameters():
            value.copy_(value.half().float())
        inputs = Inputs.random(GOLDEN_HW[name], GOLDEN_SLOTS, size.clip[2])
        scores = authors.scores(inputs.rgb, inputs.text)
    state = {
        f"tensor:{key}": value.half().numpy() for key, value in authors.network.state_dict().items()
    }
    np.savez_compressed(
        path,
        image=inputs.image.numpy(),
        text=inputs.text.numpy(),
        scores=scores.numpy(),
        **state,  # type: ignore[arg-type]
    )


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("peer", choices=sorted(BUILDERS))
    parser.add_argument("--repository", type=Path, required=True, help="checkout of the authors'")
    parser.add_argument("--size", choices=("b", "l"), default="b")
    parser.add_argument("--runs", type=int, default=3, help="of which the fastest counts")
    parser.add_argument("--golden", type=Path, help="write golden tensors instead of comparing")
    parser.add_argument("--json", action="store_true")
    return parser


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    try:
        if args.golden is not None:
            write_golden(args.peer, args.repository, args.golden)
            return 0
        found = compare(args.peer, args.size, args.repository, runs=args.runs)
    except DedosError as error:
        print(f"peers: error: {error}", file=sys.stderr)
        return 2
    found |= {"version": __version__, "torch": torch.__version__, "machine": platform.machine()}
    if args.json:
        print(json.dumps(found, indent=1))
    else:
        print("\n".join(f"{key:24} {value}" for key, value in found.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
