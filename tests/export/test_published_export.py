"""Checkpoints of SAN and CAT-Seg as bundles, by the command line.

The small models are those of `tests/model/*_micro.npz`, with as many tokens as the tokenizer has.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from bundle_use import check_use, int8_line
from torch import Tensor

from dedos_deploy.bundle import Bundle
from dedos_deploy.cli.export import main
from dedos_deploy.config_json import any_config_from_dict
from dedos_deploy.export import WeightsSource
from dedos_deploy.export.options import ExportOptions
from dedos_deploy.files import sha256_of_file
from dedos_deploy.model.peers import load_peer
from dedos_deploy.peer_configs import CatSegConfig, SanConfig, published_file
from dedos_deploy.runtime.engines.onnx_runtime import OnnxEngine
from dedos_deploy.text import TEMPLATES, Tokenizer, write_tokenizer_json

MODELS = Path(__file__).parents[1] / "model"
SIZES = {"san": (80, 160), "catseg": (96, 128)}
PARTS = {"san": "ov_classifier.", "catseg": "sem_seg_head.predictor.clip_model."}
POSITION = "positional_embedding"
WORDS = {"san": "road,car,sky,tree,person", "catseg": "road,tree"}
"""Random weights make words alike: these differ by more than the last digits of half, see below."""


State = dict[str, Tensor]


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DEDOS_CACHE_DIR", str(tmp_path / "cache"))


def golden(kind: str) -> dict[str, Tensor]:
    """Return the authors' tensors under `tensor:NAME`, and image, text and scores."""
    with np.load(MODELS / f"{kind}_micro.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


def state_of(kind: str, folder: Path) -> State:
    """Return the authors' tensors, with a table for every token; CAT-Seg's so that words differ."""
    arrays = golden(kind).items()
    state = {name[7:]: value.float() for name, value in arrays if name.startswith("tensor:")}
    table, position = (f"{PARTS[kind]}{name}" for name in ("token_embedding.weight", POSITION))
    generator = torch.Generator().manual_seed(0)
    state[table] = torch.randn(49408, state[table].shape[1], generator=generator)
    state[position] = state[position].repeat(3, 1)
    if kind == "san":
        return state
    state[position].zero_()
    # Only the word itself tells one text from another.
    rest = Tokenizer(write_tokenizer_json(folder / "tokenizer.json", 24), 24).encode(
        [TEMPLATES["single"][0].replace("{}", "")]
    )
    state[table][np.unique(rest)] = 0
    return _distinct(state)


def _distinct(state: State) -> State:
    """Return a CAT-Seg with a short CLIP, whose cosines count for more."""
    kept: State = {}
    blocks = f"{PARTS['catseg']}visual.transformer.resblocks."
    for name, value in state.items():
        index, _, rest = name.removeprefix(blocks).partition(".")
        if not name.startswith(blocks) or index in ("0", "1"):
            kept[name] = value
        elif index == "11":
            kept[f"{blocks}2.{rest}"] = value
    # Every token of a text sees all before it alike.
    kept[f"{PARTS['catseg']}transformer.resblocks.0.attn.q_proj_weight"].zero_()
    kept["sem_seg_head.predictor.transformer.conv1.weight"] *= 16
    return kept


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A checkpoint of each model, and one that was cut."""
    folder = tmp_path_factory.mktemp("published")
    for kind in SIZES:
        torch.save({"model": state_of(kind, folder)}, folder / f"{kind}.pth")
    (folder / "cut.pth").write_bytes((folder / "san.pth").read_bytes()[:-2000])
    return {name: str(folder / f"{name}.pth") for name in (*SIZES, "cut", "none")}


def exported(files: dict[str, str], kind: str, dest: Path, *more: str) -> int:
    height, width = SIZES[kind]
    line = [
        "--from",
        f"{kind}:{files[kind]}",
        "--size",
        f"{height}x{width}",
        "--classes",
        WORDS[kind],
    ]
    return main([*line, "--output", str(dest), "--frame-count", "2", *more])


@pytest.fixture(scope="module", params=SIZES)
def bundle(
    request: pytest.FixtureRequest,
    files: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[str, Path]:
    """The kind and its bundle in FP16, which passed the parity gate."""
    dest = tmp_path_factory.mktemp("bundle") / "published.dedos"
    assert exported(files, request.param, dest, "--precision", "fp16") == 0
    return request.param, dest


def report_of(opened: Bundle) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(opened.path("report.json").read_text())
    return report


def test_a_bundle_says_what_it_is_made_of(bundle: tuple[str, Path], files: dict[str, str]) -> None:
    kind, path = bundle
    with Bundle.open(path) as opened:
        manifest, report = opened.manifest, report_of(opened)
    assert isinstance(manifest.model_config, SanConfig if kind == "san" else CatSegConfig)
    assert manifest.preset == kind and manifest.precision["image"] == "fp16"
    fitting = {"san": ("vild14", 0.3), "catseg": ("single", 0.5)}[kind]
    assert (manifest.template_name, manifest.default_threshold) == fitting
    assert manifest.checkpoint_sha256 == sha256_of_file(Path(files[kind]))
    assert manifest.licence == "MIT" and len(manifest.sources) == 2
    home = {"san": "github.com/MendelXu/SAN", "catseg": "github.com/cvlab-kaist/CAT-Seg"}[kind]
    assert home in manifest.sources[0] and "OpenAI" in manifest.sources[1]
    assert report["parity"]["passed"] and report["warnings"] == []
    assert report["precision"]["islands"]["class logits"] > 0
    assert report["precision"]["half_weights"] > 20


@pytest.mark.parametrize("kind", SIZES)
def test_float_graph_passes_its_gate(kind: str, files: dict[str, str], tmp_path: Path) -> None:
    assert exported(files, kind, tmp_path / "float.dedos") == 0
    with Bundle.open(tmp_path / "float.dedos") as opened:
        report = report_of(opened)
    assert report["parity"]["passed"] and report["parity"]["max_abs"] < 1e-4
    assert report["precision"]["half_weights"] == 0
    check_scores(tmp_path / "float.dedos", kind, files[kind])


def check_scores(bundle: Path, kind: str, checkpoint: str) -> None:
    """The bundle's graph gives what the module gives, SAN's what the authors' own code gave."""
    theirs = golden(kind)
    image, text = theirs["image"], theirs["text"]
    valid = torch.ones(len(text))
    with (
        Bundle.open(bundle) as opened,
        OnnxEngine(opened.path("model.onnx"), opened.spec, threads=1) as engine,
    ):
        feeds = {"image": image.numpy(), "text": text.numpy(), "valid": valid.numpy()}
        found = torch.from_numpy(engine.infer(feeds)["scores"])
    with torch.no_grad():
        expected = load_peer(checkpoint, kind)(image, text, valid)
    assert float(expected.std((2, 3)).max()) > 1e-2, "nothing to compare"
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)
    if kind == "san":  # whose tensors the files have as they were, but for the table of words
        scores = theirs["scores"]
        torch.testing.assert_close(
            found[0], scores / scores.amax(0).clamp(min=1), atol=2e-5, rtol=1e-4
        )


def test_it_runs_and_is_evaluated(
    bundle: tuple[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check_use(bundle[1], tmp_path, capsys)


@pytest.mark.parametrize(
    ("kind", "parts"), [("san", ("trunk", "side")), ("catseg", ("layers", "ups"))]
)
def test_int8_passes_its_gate(
    kind: str, parts: tuple[str, ...], files: dict[str, str], tmp_path: Path
) -> None:
    line = int8_line(tmp_path / "drive")
    dest = tmp_path / "int8.dedos"
    assert exported(files, kind, dest, *line) == 0
    with Bundle.open(dest) as opened:
        assert opened.manifest.precision["image"] == "int8"
        report = report_of(opened)
        graph = onnx.load(opened.path("model.onnx")).graph
    sites = [one["site"] for one in report["int8"]["plan"]["quantized"]]
    assert report["parity"]["passed"]
    assert set(parts) <= {site.split(".")[0] for site in sites}, sites
    assert any(tensor.data_type == onnx.TensorProto.INT8 for tensor in graph.initializer)


REFUSALS: list[tuple[str, str]] = [
    ("--from san:none", r"checkpoint \S+none.pth does not exist; give the file that was published"),
    ("--from san:catseg", "is of CAT-Seg, not of SAN; read it as 'catseg'"),
    ("--from catseg:san", "is of SAN, not of CAT-Seg; read it as 'san'"),
    ("--from san-b:san", r"is of san \(its CLIP is 24 wide with patches of 14\), not of san-b"),
    ("--from catseg-l:catseg", r"is of catseg \(its CLIP is 16 wide .*, not of catseg-l"),
    ("--from san:cut", "is not a readable file of tensors"),
    ("--from san:san --size 100x160", "100x160 does not fit san, .*; the nearest is 80x160"),
    ("--from san:san --checkpoint x.safetensors", "--checkpoint was given too; give one or the"),
    ("--from san:san --preset nano", "--preset was given too; give one or the other"),
    ("--from san:san --preset dense-b --random-weights", "--preset, --random-weights was given"),
    ("--from san:san --clip-weights openai --head naclip", "--clip-weights, --head was given too"),
    ("--from san:san --windows 224/112", "--windows was given too; give one or the other"),
]


@pytest.mark.parametrize(("line", "message"), REFUSALS)
def test_refusals_are_one_sentence_and_leave_nothing(
    files: dict[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    line: str,
    message: str,
) -> None:
    option, named, *more = line.split()
    kind, _, name = named.partition(":")
    arguments = [option, f"{kind}:{files[name]}", *more, "--output", str(tmp_path / "any.dedos")]
    assert main(arguments) == 2
    errors = [text for text in capsys.readouterr().err.splitlines() if "error:" in text]
    assert len(errors) == 1 and re.search(message, errors[0]), errors
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["sam:weights.pth", "san", "san:", "san-h:weights.pth", "SAN:a"])
def test_other_models_than_those_there_are(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--from", text, "--output", str(tmp_path / "any.dedos")])
    assert stopped.value.code == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"{text!r} is no published checkpoint; write san or catseg" in error
    assert "a colon and the file, as san:weights.pth" in error
    assert not list(tmp_path.iterdir())


def test_a_bundle_is_named_after_the_file() -> None:
    source = WeightsSource(published=published_file("catseg:runs/model_final.pth"))
    assert source.name == "model_final"


def test_templates_that_are_asked_for_come_first(files: dict[str, str]) -> None:
    config = WeightsSource(published=published_file(f"san:{files['san']}")).load().model.config
    assert ExportOptions().templates_for(config) == "vild14"
    assert ExportOptions(templates="single").templates_for(config) == "single"


CHANGES: list[tuple[str, dict[str, object], str]] = [
    ("san", {"split": 12}, "split 12 must be below the 4 blocks of CLIP"),
    ("san", {"side_width": 13}, "a multiple of 6"),
    ("san", {"queries": 10**9}, "queries must be at most 4096"),
    ("san", {"clip_scale": [0, 2]}, r"clip_scale must lie in \(0, 1\], not 0/2"),
    ("san", {"clip_scale": [3, 2]}, r"clip_scale must lie in \(0, 1\], not 3/2"),
    ("san", {"size_hw": [100, 160]}, "the nearest is 80x160"),
    ("san", {"sides": 1}, "unknown key 'sides'"),
    ("catseg", {"width": 0}, "width must be at least 1"),
    ("catseg", {"lifted": [8, 9000]}, r"lifted must lie in \[1, 8192\]"),
    ("catseg", {"decoder": "16"}, "incomplete or mistyped: .*decoder"),
]


@pytest.fixture(scope="module")
def configs(files: dict[str, str]) -> dict[str, dict[str, Any]]:
    """What a manifest holds of each."""
    sources = {kind: published_file(f"{kind}:{files[kind]}") for kind in SIZES}
    loaded = {kind: WeightsSource(published=file).load() for kind, file in sources.items()}
    return {
        kind: json.loads(json.dumps(one.model.config.to_dict())) for kind, one in loaded.items()
    }


@pytest.mark.parametrize(("kind", "changes", "message"), CHANGES)
def test_configurations_out_of_range(
    configs: dict[str, dict[str, Any]], kind: str, changes: dict[str, object], message: str
) -> None:
    from dedos_deploy.errors import BadInputError

    assert any_config_from_dict(configs[kind]).preset == kind
    with pytest.raises(BadInputError, match=message):
        any_config_from_dict(configs[kind] | changes)


def test_macs_of_the_words_by_hand(configs: dict[str, dict[str, Any]]) -> None:
    from dedos_deploy.model.cost import model_cost

    for kind, part, expected in (
        ("san", "word_logits", 5 * (7 + 1) * 12),
        ("catseg", "word_cosines", 7 * 24 * 24 * 12),
    ):
        cost = model_cost(any_config_from_dict(configs[kind]), size_hw=SIZES[kind], slots=7)
        assert cost.macs_by_part[part] == expected
        assert sum(cost.macs_by_part.values()) == cost.macs > cost.macs_table7 > 0
        assert cost.parameters_trained == 0 and min(cost.macs_by_part.values()) > 0
