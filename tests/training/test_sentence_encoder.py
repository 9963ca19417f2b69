"""Sentence encoders from local folders: pooling, open_clip's configuration, widths, words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from dedos_deploy.cli.train import main
from dedos_deploy.errors import BadInputError
from dedos_deploy.training.pretraining import sentence_encoder as encoders

transformers = pytest.importorskip("transformers", reason="needs the extra [train]")

TOKENS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "a",
    "car",
    "road",
    "##s",
    "tree",
    "Sky",
    "of",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random BERT as transformers writes it."""
    root = tmp_path_factory.mktemp("encoder")
    (root / "vocab.txt").write_text("\n".join(TOKENS) + "\n")
    transformers.BertTokenizer(str(root / "vocab.txt")).save_pretrained(root)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(TOKENS),
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=16,
    )
    transformers.BertModel(config).save_pretrained(root)
    return root


TEXTS = ("car", "a tree", "road of cars", "a car of a road", "tree")


def test_rows_are_unit_and_do_not_depend_on_the_company(folder: Path) -> None:
    encode = encoders.sentence_encoder(encoders.find_encoder(folder))
    together = encode(TEXTS)
    alone = torch.cat([encode([text]) for text in TEXTS])
    assert together.norm(dim=1) == pytest.approx(torch.ones(len(TEXTS)), abs=1e-5)
    assert torch.allclose(together, alone, atol=1e-5)
    assert not torch.allclose(together[0], together[4], atol=1e-2)


def test_an_open_clip_configuration_names_the_same_tower(folder: Path) -> None:
    path = folder / "open_clip_config.json"
    text = {
        "hf_model_name": ".",
        "hf_tokenizer_name": ".",
        "hf_pooler_type": "cls_last_hidden_state_pooler",
    }
    path.write_text(json.dumps({"embed_dim": 8, "text_cfg": text}))
    source = encoders.find_encoder(path)
    assert source.pooling == "cls"
    ours = encoders.sentence_encoder(source)(TEXTS)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    tokens = transformers.AutoTokenizer.from_pretrained(folder)(
        list(TEXTS), padding=True, return_tensors="pt"
    )
    from open_clip.hf_model import ClsLastHiddenStatePooler, MeanPooler

    with torch.no_grad():
        states = model(**tokens)
        theirs = ClsLastHiddenStatePooler()(states, tokens["attention_mask"])
        mean = MeanPooler()(states, tokens["attention_mask"])
    assert torch.allclose(ours, F.normalize(theirs, dim=-1), atol=1e-5)
    text["hf_pooler_type"] = "mean_pooler"
    path.write_text(json.dumps({"text_cfg": text}))
    ours = encoders.sentence_encoder(encoders.find_encoder(path))(TEXTS)
    assert torch.allclose(ours, F.normalize(mean, dim=-1), atol=1e-5)


def test_pooling_is_what_the_folder_says(folder: Path) -> None:
    path = folder / "1_Pooling" / "config.json"
    path.parent.mkdir()
    try:
        path.write_text('{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}')
        assert encoders.find_encoder(folder).pooling == "cls"
        path.write_text('{"pooling_mode_max_tokens": true}')
        with pytest.raises(
            BadInputError, match="pools by pooling_mode_max_tokens; the mean or CLS"
        ):
            encoders.find_encoder(folder)
        path.write_text("{")
        with pytest.raises(BadInputError, match="no readable JSON"):
            encoders.find_encoder(folder)
    finally:
        path.unlink()
        path.parent.rmdir()


def test_what_is_no_encoder_is_refused(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(BadInputError, match="is no sentence encoder; give a local folder"):
        encoders.find_encoder(tmp_path)
    config = tmp_path / "c.json"
    config.write_text('{"text_cfg": {"width": 512}}')
    with pytest.raises(BadInputError, match="no text_cfg.hf_model_name"):
        encoders.find_encoder(config)
    config.write_text(
        json.dumps({"text_cfg": {"hf_model_name": str(folder), "hf_pooler_type": "max_pooler"}})
    )
    with pytest.raises(BadInputError, match="asks for 'max_pooler'; poolers that can be read"):
        encoders.find_encoder(config)
    for name in (str(folder), f"../{folder.name}", "a/../../b", 3):
        config.write_text(json.dumps({"text_cfg": {"hf_model_name": name}}))
        with pytest.raises(BadInputError, match="by a path that leads elsewhere; put the folder"):
            encoders.find_encoder(config)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(BadInputError, match="transformers cannot read"):
        encoders.sentence_encoder(encoders.find_encoder(tmp_path))


def test_widths_are_fitted_without_changing_cosines() -> None:
    rows = F.normalize(torch.randn(20, 6, generator=torch.Generator().manual_seed(0)), dim=-1)
    wider = encoders.fit_width(rows, 9)
    assert wider.shape == (20, 9) and torch.allclose(wider @ wider.T, rows @ rows.T, atol=1e-6)
    flat = F.normalize(torch.cat([rows[:, :3], 1e-4 * rows[:, 3:]], dim=1), dim=-1)
    narrower = encoders.fit_width(flat, 3)
    assert narrower.shape == (20, 3)
    assert torch.allclose(narrower @ narrower.T, flat @ flat.T, atol=1e-3)


def test_whole_words_are_those_of_the_tokenizer(folder: Path) -> None:
    assert encoders.whole_words(encoders.find_encoder(folder)) == ["car", "road", "tree"]


def test_one_command_distils_a_tower_and_leaves_nothing_else(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "new" / "tower.safetensors"
    options = ["text", "--encoder", str(folder), "--output", str(output)]
    options += ["--steps", "2", "--batch", "4"]
    assert main(options) == 0
    assert "cosine scene words" in capsys.readouterr().out
    assert [entry.name for entry in output.parent.iterdir()] == [output.name]
    assert main([*options, "--resume"]) == 2
    said = capsys.readouterr().err
    assert f"{output.with_suffix('.state.safetensors')} does not exist" in said
    assert main([*options, "--minutes", "0"]) == 2
    assert "--minutes is 0.0, but must be more than 0" in capsys.readouterr().err
