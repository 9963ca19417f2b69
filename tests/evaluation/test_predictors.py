"""A checkpoint, its bundle, and other prompts: the same answers where they must be, others where not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dedos_deploy.assets import EMBEDDED_WEIGHTS, assets_path
from dedos_deploy.errors import BadInputError
from dedos_deploy.evaluation.predictors import (
    channel_classes,
    open_bundle_predictor,
    open_checkpoint_predictor,
)
from dedos_deploy.evaluation.subjects import Subject, base_names
from dedos_deploy.scenes import render_image
from dedos_deploy.vocabulary import parse_vocabulary

WORDS = parse_vocabulary("road,car|automobile,building,sky,tree,sidewalk")


@pytest.fixture
def picture() -> np.ndarray:
    image, _ = render_image("street", seed=7, size_hw=(300, 400))
    return image


def test_a_checkpoint_answers_as_its_bundle(picture: np.ndarray) -> None:
    """The embedded bundle holds the embedded weights in half precision."""
    pytest.importorskip("torch")
    weights = assets_path(EMBEDDED_WEIGHTS)
    with (
        open_bundle_predictor("demo", WORDS, threads=1) as bundle,
        open_checkpoint_predictor(weights, WORDS, threads=1) as checkpoint,
    ):
        first, second = bundle.predict(picture).ids, checkpoint.predict(picture).ids
        assert first.shape == second.shape == picture.shape[:2] and first.dtype == np.uint8
        assert (first == second).mean() > 0.99 and len(np.unique(first)) > 2
        assert bundle.identity["template"] == checkpoint.identity["template"] == "single"
    with open_checkpoint_predictor(
        weights, WORDS, background="threshold", threshold=1.0, threads=1
    ) as strict:
        assert (strict.predict(picture).ids == len(WORDS)).mean() > 0.9


def test_other_prompts_are_other_embeddings(picture: np.ndarray) -> None:
    tables = []
    for template in (None, "single", "vild14"):
        with open_bundle_predictor("demo", WORDS, template=template, threads=1) as predictor:
            tables.append(predictor.segmenter._table.text)  # type: ignore[attr-defined]
    np.testing.assert_allclose(tables[0], tables[1], atol=1e-6)
    cosine = (tables[0] * tables[2]).sum(1)
    assert (cosine > 0.5).all() and (cosine < 0.9999).any()
    with pytest.raises(BadInputError, match="unknown prompt templates 'poem'"):
        open_bundle_predictor("demo", WORDS, template="poem")
    with pytest.raises(BadInputError, match="were embedded under 'single'; with 'vild14'"):
        open_bundle_predictor("demo", WORDS, template="vild14", background="negatives")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"background": "negatives"}, "ships no base vocabulary to take negatives from"),
        ({"template": "poem"}, "unknown prompt templates 'poem'"),
        ({"size_hw": (30, 48)}, "size 30x48 does not fit nano"),
        ({"device": "toaster"}, "device 'toaster' cannot be used"),
    ],
)
def test_checkpoints_say_what_they_cannot(given: dict[str, object], message: str) -> None:
    pytest.importorskip("torch")
    with pytest.raises(BadInputError, match=message):
        open_checkpoint_predictor(assets_path(EMBEDDED_WEIGHTS), WORDS, **given)


def test_channels_of_a_net_stand_for_classes() -> None:
    words = ("Road", "rider", "bicycle", "vegetation")
    classes = parse_vocabulary("bicyclist,tree|vegetation,road")
    table = channel_classes(words, classes, {"bicyclist": ("rider", "bicycle")})
    assert table.tolist() == [2, 0, 0, 1]
    with pytest.raises(BadInputError, match="class 'tree' has no channel: .* not tree;"):
        channel_classes(words, parse_vocabulary("tree"), {})
    with pytest.raises(BadInputError, match="'rider' is said to mean both 'bicyclist' and 'man'"):
        channel_classes(
            words, parse_vocabulary("bicyclist,man"), {"bicyclist": ("rider",), "man": ("rider",)}
        )


def test_base_names_are_those_that_masks_taught() -> None:
    assert base_names(WORDS, frozenset({"road", "automobile"})) == {"road", "car"}
    assert base_names(WORDS, None) is None
    assert base_names(WORDS, frozenset({"cow"})) is None  # nothing to tell apart
    with open_bundle_predictor("demo", WORDS, threads=1) as predictor:
        taught = predictor.taught
    assert taught is not None and "road" in taught
    names = [
        Subject("bundle", "a/b.dedos").name,
        Subject("checkpoint", "runs/x/checkpoint.safetensors").name,
    ]
    assert names == ["b", "x"]
    assert (
        Subject("bundle", "b", template="vild14", synonyms=False).name == "b, vild14, no synonyms"
    )


def test_predictors_close_what_they_opened(tmp_path: Path) -> None:
    with open_bundle_predictor("demo", WORDS, threads=1) as predictor:
        pass
    predictor.close()
