"""A published CLIP as a bundle: from a file of open_clip weights to labels, by the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from bundle_use import check_use, int8_line

from dedos_deploy import presets
from dedos_deploy.bundle import Bundle
from dedos_deploy.cli.export import main
from dedos_deploy.export import WeightsSource
from dedos_deploy.export.weights import OTHER_CLIP
from dedos_deploy.files import sha256_of_file
from dedos_deploy.head_numbers import WindowConfig, sc_clip_head
from dedos_deploy.model.heads import STUFF_WORDS
from dedos_deploy.presets import ClipConfig, DenseConfig, TextTowerConfig

open_clip = pytest.importorskip("open_clip")

SIDE = 48
WORDS = "road,car,sky,tree,person"
WIDTH = 160
"""26 null rows of it are a large weight, which stays float32 in every graph."""
TEXT = {"context_length": 24, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}


def architecture(*, patch: int = 8, width: int = 24, layers: int = 4, quick: bool = True) -> Any:
    vision = {
        "image_size": 32,
        "patch_size": patch,
        "width": width,
        "layers": layers,
        "head_width": 8,
    }
    return {"embed_dim": WIDTH, "vision_cfg": vision, "text_cfg": TEXT, "quick_gelu": quick}


def config(activation: presets.Activation = "quick_gelu") -> DenseConfig:
    quick = activation == "quick_gelu"
    name = "tiny-quickgelu" if quick else "tiny"
    text = TextTowerConfig(16, 1, 2, context_length=24)
    clip = ClipConfig(name, 8, 24, 4, 3, grid=4, text_width=WIDTH, text=text, activation=activation)
    preset = "dense-tiny" if quick else "dense-tiny-gelu"
    return DenseConfig(preset, clip, (SIDE, 64), sc_clip_head(4))


@pytest.fixture(autouse=True)
def _small_presets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A tower of a few channels, as a preset of each activation and as open_clip's architecture."""
    known: dict[str, Any] = open_clip.factory._MODEL_CONFIGS
    for one in (config(), config("gelu")):
        monkeypatch.setitem(presets.DENSE_PRESETS, one.preset, one)
        quick = one.clip.activation == "quick_gelu"
        monkeypatch.setitem(known, one.clip.architecture, architecture(quick=quick))
    monkeypatch.setenv("DEDOS_CACHE_DIR", str(tmp_path / "cache"))


def saved(path: Path, built: Any | None = None) -> Path:
    """Write the state dict of a random tower as open_clip does."""
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(1)
    built = built or architecture()
    state = open_clip.model.CLIP(
        **{key: built[key] for key in ("embed_dim", "vision_cfg", "text_cfg", "quick_gelu")}
    ).state_dict()
    for name, value in state.items():  # At its first values a tower sees little of the picture.
        strong = {"visual.conv1.weight": 10, "attn.in_proj_weight": 3, "attn.out_proj.weight": 3}
        factors = [factor for end, factor in strong.items() if name.endswith(end)]
        if name.startswith("visual.") and factors:
            value.mul_(factors[0])
    save_file({name: value.contiguous() for name, value in state.items()}, path)
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("clip") / "open_clip_model.safetensors")


def exported(weights: Path, dest: Path, *more: str, preset: str = "dense-tiny") -> int:
    line = ["--preset", preset, "--clip-weights", str(weights), "--output", str(dest)]
    return main([*line, "--classes", WORDS, "--frame-count", "2", *more])


@pytest.fixture(scope="module")
def bundle(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The one-line export of the docs, with windows."""
    dest = tmp_path_factory.mktemp("bundle") / "any.dedos"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(presets.DENSE_PRESETS, "dense-tiny", config())
        patch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny-quickgelu", architecture())
        assert exported(weights, dest, "--precision", "fp16", "--windows", "48/16") == 0
    return dest


def test_a_bundle_says_what_it_is_made_of(bundle: Path, weights: Path) -> None:
    with Bundle.open(bundle) as opened:
        manifest = opened.manifest
        report = json.loads(opened.path("report.json").read_text())
    found = manifest.model_config
    assert isinstance(found, DenseConfig) and found.head == sc_clip_head(4)
    assert found.windows == WindowConfig(48, 16) and found.tau == 40
    assert found.null_words == STUFF_WORDS and 0 < found.null_limit < 1
    assert (manifest.template_name, len(manifest.templates)) == ("imagenet80", 80)
    assert (manifest.default_threshold, manifest.precision["image"]) == (0.15, "fp16")
    assert manifest.checkpoint_sha256 == sha256_of_file(weights)
    assert manifest.sources == ["CLIP weights of the file open_clip_model.safetensors"]
    assert manifest.licence == "not stated by the file"
    assert report["parity"]["passed"] and report["warnings"] == []


def test_its_graph_holds_the_null_rows_of_its_own_text_tower(bundle: Path) -> None:
    from dedos_deploy.runtime.engines.onnx_runtime import OnnxEngine
    from dedos_deploy.runtime.loading import bundle_parts

    parts = bundle_parts(bundle, background="none", threshold=None)
    try:
        graph = onnx.load(parts.bundle.path("model.onnx")).graph
        nulls = parts.encode(STUFF_WORDS)
        held = [onnx.numpy_helper.to_array(t) for t in graph.initializer if t.dims == [26, WIDTH]]
        np.testing.assert_allclose(held[0], nulls, atol=1e-5)
        # A list of one word does not get every pixel: the null rows have their shares.
        image = np.zeros((1, SIDE, 64, 3), np.uint8)
        with OnnxEngine(parts.bundle.path("model.onnx"), parts.bundle.spec, threads=1) as engine:
            feeds = {"image": image, "text": parts.encode(["car"]), "valid": np.ones(1, np.float32)}
            assert engine.infer(feeds)["scores"].max() < 0.9
    finally:
        parts.close()


def test_a_pixel_says_what_the_null_rows_took(bundle: Path) -> None:
    from dedos_deploy.runtime import Segmenter

    frame = np.random.default_rng(1).integers(0, 256, (30, 50, 3)).astype(np.uint8)
    options = {"background": "none", "threads": 1, "explain": True}
    with Segmenter.load(bundle, classes="car,road", **options) as segmenter:
        rows = segmenter.segment(frame).top(15, 25)
    assert sorted(row.kind for row in rows) == ["null", "word", "word"]
    null = next(row for row in rows if row.kind == "null")
    assert 0 < null.score < 1 and not null.decided
    assert sum(row.score for row in rows) == pytest.approx(1, abs=1e-6)


def open_clip_dense(weights: Path, image: np.ndarray) -> np.ndarray:
    """Return unit patch embeddings [48, D] by open_clip's own modules: its values are dense."""
    import torch
    import torch.nn.functional as F

    visual = open_clip.create_model("tiny-quickgelu", pretrained=str(weights)).eval().visual
    pixels = torch.from_numpy(image).flip(-1).permute(0, 3, 1, 2) / 255
    clip = config().clip
    mean, std = (torch.tensor(one).view(3, 1, 1) for one in (clip.mean, clip.std))
    with torch.no_grad():
        cls, square = visual.positional_embedding[:1], visual.positional_embedding[1:]
        square = square.T.reshape(1, -1, 4, 4)
        scale = ((SIDE // 8 + 0.1) / 4, (64 // 8 + 0.1) / 4)  # as the papers resize it
        resized = F.interpolate(square, scale_factor=scale, mode="bicubic")
        rows = torch.cat([cls, resized.flatten(2)[0].T])
        visual.positional_embedding = torch.nn.Parameter(rows)
        met: list[torch.Tensor] = []
        last = visual.transformer.resblocks[-1]
        last.register_forward_pre_hook(lambda module, inputs: met.append(inputs[0]))
        visual((pixels - mean) / std)
        width = visual.conv1.out_channels
        tokens = last.ln_1(met[0])[0, 1:]
        value = last.attn.in_proj_weight[2 * width :], last.attn.in_proj_bias[2 * width :]
        dense = visual.ln_post(last.attn.out_proj(F.linear(tokens, *value))) @ visual.proj
        return F.normalize(dense, dim=-1).double().numpy()


def test_a_bundle_gives_the_scores_of_open_clips_own_modules(weights: Path, tmp_path: Path) -> None:
    import cv2

    from dedos_deploy.runtime.engines.onnx_runtime import OnnxEngine
    from dedos_deploy.runtime.loading import bundle_parts

    dest = tmp_path / "maskclip.dedos"
    assert exported(weights, dest, "--head", "maskclip", "--templates", "single") == 0
    coarse = np.random.default_rng(3).integers(0, 256, (3, 4, 3)).astype(np.uint8)
    image = cv2.resize(coarse, (64, SIDE), interpolation=cv2.INTER_CUBIC)[None]
    parts = bundle_parts(dest, background="none", threshold=None)
    try:
        text, nulls = parts.encode(["car", "road", "tree"]), parts.encode(STUFF_WORDS)
        found_config = parts.bundle.manifest.model_config
        with OnnxEngine(parts.bundle.path("model.onnx"), parts.bundle.spec, threads=1) as engine:
            feeds = {"image": image, "text": text, "valid": np.ones(3, np.float32)}
            found = engine.infer(feeds)["scores"][0]
    finally:
        parts.close()
    assert isinstance(found_config, DenseConfig)
    kept = (nulls @ text.T).max(1) <= found_config.null_limit
    assert 0 < kept.sum() < 26
    rows = np.concatenate([text, nulls[kept]]).astype(np.float64)
    logits = (40 * rows @ open_clip_dense(weights, image).T).reshape(len(rows), SIDE // 8, 8)
    fine = np.stack([cv2.resize(one, (16, SIDE // 4)) for one in logits])
    shares = np.exp(fine - fine.max(0))
    expected = shares[:3] / shares.sum(0)
    assert expected.std((1, 2)).min() > 1e-3, "nothing to compare"
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_words_of_a_bundle_are_those_of_open_clips_own_text_tower(
    bundle: Path, weights: Path
) -> None:
    import torch

    from dedos_deploy.runtime.loading import bundle_parts
    from dedos_deploy.text import TEMPLATES

    words = ("car", "traffic light", "zebra")
    model = open_clip.create_model("tiny-quickgelu", pretrained=str(weights)).eval()
    tokenizer = open_clip.SimpleTokenizer(context_length=TEXT["context_length"])
    with torch.no_grad():
        expected = [
            model.encode_text(
                tokenizer([one.replace("{}", word) for one in TEMPLATES["imagenet80"]])
            )
            for word in words
        ]
        rows = [torch.nn.functional.normalize(row, dim=-1).mean(0) for row in expected]
    unit = torch.nn.functional.normalize(torch.stack(rows), dim=-1).numpy()
    parts = bundle_parts(bundle, background="none", threshold=None)
    try:
        found = parts.encode(list(words))
    finally:
        parts.close()
    assert (unit @ unit.T).min() < 0.999, "words are alike"
    np.testing.assert_allclose(found, unit, atol=2e-3)


def test_it_runs_and_is_evaluated(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check_use(bundle, tmp_path, capsys)


def test_int8_passes_its_gate(weights: Path, tmp_path: Path) -> None:
    line = int8_line(tmp_path / "drive")
    dest = tmp_path / "int8.dedos"
    assert exported(weights, dest, *line, "--templates", "single", "--head", "naclip") == 0
    with Bundle.open(dest) as opened:
        assert opened.manifest.precision["image"] == "int8"
        report = json.loads(opened.path("report.json").read_text())
        graph = onnx.load(opened.path("model.onnx")).graph
    assert report["parity"]["passed"] and report["int8"]["plan"]["quantized"]
    assert any(tensor.data_type == onnx.TensorProto.INT8 for tensor in graph.initializer)


REFUSALS: list[tuple[str, str]] = [
    ("--preset dense-tiny", "needs the weights of a CLIP, once; give --clip-weights openai"),
    ("--preset dense-tiny --clip-weights F --random-weights", "needs the weights of a CLIP, once"),
    ("--preset dense-tiny --checkpoint F", "has no checkpoint, as nothing of it is trained"),
    ("--clip-weights F", "--clip-weights is for a CLIP with a head without training"),
    ("--preset nano --clip-weights F", "--clip-weights is for .* --preset dense-l, dense-b"),
    ("--preset nano --head naclip", "--head is for a CLIP with a head without training"),
    ("--preset nano --windows 224/112", "--windows is for a CLIP with a head without training"),
    ("--preset dense-tiny --clip-weights nowhere.pt", "neither a file nor a tag of tiny-quickgelu"),
    ("--preset dense-tiny --clip-weights F --windows 48/4 --size 128x128", "are 441 in a picture"),
    ("--preset dense-tiny --clip-weights F --windows 48/16 --size 40x64", "of 40 pixels does not"),
    ("--preset dense-tiny --clip-weights F --windows 52/16", "multiples of its patch 8"),
    ("--preset dense-tiny --clip-weights F --size 40x48", "sc-clip compares each patch with 30"),
    ("--preset dense-tiny-gelu --clip-weights Q/F", "trained with QuickGELU, .* computes GELU"),
    ("--preset dense-tiny --clip-weights G/F", "trained with GELU, .* computes QuickGELU"),
    (
        "--preset dense-tiny --clip-weights wide",
        r"of another shape.*give a local file of this arch",
    ),
    ("--preset dense-tiny --clip-weights deep", r"12 surplus: .*give a local file of this arch"),
    ("--preset dense-tiny --clip-weights cut", r"could not be loaded .*; fetch them again"),
    ("--preset dense-tiny --clip-weights noise", r"could not be loaded .*; fetch them again"),
]


@pytest.fixture(scope="module")
def bad_files(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("bad")
    files = {"F": weights, "wide": folder / "wide.safetensors", "deep": folder / "deep.safetensors"}
    saved(files["wide"], architecture(width=32))
    saved(files["deep"], architecture(layers=5))
    files |= {"cut": folder / "cut.safetensors", "noise": folder / "noise.pt"}
    files["cut"].write_bytes(weights.read_bytes()[:-100])
    files["noise"].write_bytes(bytes(range(256)) * 4)
    for name, quick in (("Q/F", True), ("G/F", False)):
        beside = folder / name[0]
        beside.mkdir()
        files[name] = beside / "open_clip_model.safetensors"
        files[name].write_bytes(weights.read_bytes())
        told = {"model_cfg": architecture(quick=quick)}
        (beside / "open_clip_config.json").write_text(json.dumps(told))
    return {name: str(path) for name, path in files.items()}


@pytest.mark.parametrize(("line", "message"), REFUSALS)
def test_refusals_are_one_sentence_and_leave_nothing(
    bad_files: dict[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    line: str,
    message: str,
) -> None:
    import re

    arguments = [bad_files.get(word, word) for word in line.split()]
    assert main([*arguments, "--output", str(tmp_path / "any.dedos")]) == 2
    errors = [text for text in capsys.readouterr().err.splitlines() if "error:" in text]
    assert len(errors) == 1 and re.search(message, errors[0]), errors
    assert not list(tmp_path.iterdir())


WINDOWS = [
    *(
        (text, "are no windows; write SIZE/STRIDE in")
        for text in ("224", "224x112", "0/16", "a/b", "")
    ),
    ("48/52", "must be SIZE/STRIDE in pixels, multiples of 4 with a stride of at most the size"),
]


@pytest.mark.parametrize(("text", "message"), WINDOWS)
def test_windows_that_are_none(text: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([f"--windows={text}"])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_other_heads_than_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--head", "sclip"])
    assert "choose from 'sc-clip', 'naclip', 'maskclip'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("preset", "head", "warned"),
    [
        ("dense-tiny-gelu", "sc-clip", True),
        ("dense-tiny-gelu", "naclip", False),
        ("dense-tiny", None, False),
    ],
)
def test_sc_clip_warns_of_weights_that_are_not_openais(
    weights: Path, preset: str, head: Any, warned: bool
) -> None:
    source = WeightsSource(preset=preset, clip_weights=str(weights), head=head)
    assert source.load().warnings == ((OTHER_CLIP,) if warned else ())


def test_larger_windows_make_a_larger_picture() -> None:
    source = WeightsSource(preset="dense-tiny", random=True, windows=WindowConfig(56, 28))
    assert source.load().model.config.size_hw == (56, 64)


@pytest.mark.parametrize(
    ("tag", "licence", "publisher"),
    [
        ("openai", "MIT", "OpenAI, github.com/openai/CLIP"),
        ("metaclip_400m", "see huggingface.co/timm/vit_base_patch16_clip_224.metaclip_400m", "hug"),
    ],
)
def test_tags_name_their_publisher(
    monkeypatch: pytest.MonkeyPatch, weights: Path, tag: str, licence: str, publisher: str
) -> None:
    from dedos_deploy.model.open_clip_files import clip_file

    monkeypatch.setattr(
        "huggingface_hub.hf_hub_download", lambda repository, name, **_: str(weights)
    )
    found = clip_file(open_clip, presets.DENSE_PRESETS["dense-b"].clip, tag)
    assert (found.path, found.licence) == (weights, licence) and publisher in found.credit


@pytest.fixture
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As HF_HUB_OFFLINE=1 with nothing cached, which is read when huggingface_hub is imported."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.mark.usefixtures("_offline")
def test_without_internet_the_file_to_bring_is_named_and_a_file_works(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dest = tmp_path / "any.dedos"
    line = ["--preset", "dense-b", "--clip-weights", "openai", "--output", str(dest)]
    assert main(line) == 2
    errors = [text for text in capsys.readouterr().err.splitlines() if "error:" in text]
    assert len(errors) == 1 and "could not be fetched" in errors[0]
    named = (
        "bring open_clip_model.safetensors of huggingface.co/timm/vit_base_patch16_clip_224.openai"
    )
    assert f"{named} to this machine and give it as --clip-weights FILE" in errors[0]
    assert not dest.exists()
    found = WeightsSource(preset="dense-tiny", clip_weights=str(weights)).load()
    assert found.checkpoint_sha256 == sha256_of_file(weights) and not found.random
