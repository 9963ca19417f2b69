"""Words files in libdedos: the same bits as the Python runtime's, and one sentence for what is no such file."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bindings import Failed, Library
from numpy.typing import NDArray
from test_equal import check_equal

from dedos_deploy.bundle import Bundle
from dedos_deploy.errors import BadInputError
from dedos_deploy.runtime import Segmenter
from dedos_deploy.scenes import render_image
from dedos_deploy.vocabulary import vocabulary_from_file
from dedos_deploy.vocabulary_file import save_vocabulary
from dedos_deploy.words_file import save_words_file

ENTRIES = ["road@0.15#0000ff", "car|automobile", "Stra\u00dfe\\, alt|traffic  light@0.4"]
WORDS = ["road", "car", "automobile", "Stra\u00dfe, alt", "Traffic Light", "sky"]


@pytest.fixture(scope="module")
def model_sha256(demo: Path) -> str:
    with Bundle.open(demo) as bundle:
        assert bundle.manifest.checkpoint_sha256 is not None
        return bundle.manifest.checkpoint_sha256


@pytest.fixture(scope="module")
def rows(demo: Path) -> NDArray[np.float32]:
    """Rows near those that the demo has for words of a street, so that pixels get them."""
    with Bundle.open(demo) as bundle:
        known = bundle.known_embeddings()
    chosen = np.stack([known[word] for word in ("road", "car", "bus", "building", "tree", "sky")])
    moved = chosen + 0.02 * np.random.default_rng(0).normal(size=chosen.shape)
    return (moved / np.linalg.norm(moved, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def tuned(tmp_path: Path, rows: NDArray[np.float32], model_sha256: str) -> Callable[..., Path]:
    """Return a function that writes a words file, with some parts other than usual."""

    def write(**changed: Any) -> Path:
        parts = {"entries": ENTRIES, "words": WORDS, "embeddings": rows, "tuning": {"frames": 20}}
        return save_words_file(
            tmp_path / "my.words", **{**parts, "model_sha256": model_sha256, **changed}
        )

    return write


def test_words_files_label_as_in_python(
    library: Library, demo: Path, tuned: Callable[..., Path], rows: NDArray[np.float32]
) -> None:
    frame = render_image("street", seed=1, size_hw=(240, 320))[0]
    file = tuned()
    ours = library.open(demo, None, words_file=file, background="negatives")
    theirs = Segmenter.load(demo, classes=file, background="negatives")
    with ours, theirs:
        labelled = theirs.segment(frame)
        assert len(np.unique(labelled.label_map)) > 2
        check_equal(ours.segment(frame), labelled)
        # Later lists keep the file's rows, and the text tower encodes the rest.
        for classes in ("sky,CAR,zebra crossing,road@0.1", "tree,qwzx"):
            assert ours.set_classes(classes) == theirs.set_classes(classes)
            check_equal(ours.segment(frame), theirs.segment(frame))
        other = tuned(entries=["sky", "road"], embeddings=np.roll(rows, 1, axis=0))
        assert ours.set_words_file(other) == theirs.set_classes(other) == 4
        check_equal(ours.segment(frame), theirs.segment(frame))


def refused(library: Library, demo: Path, file: Path, **others: Any) -> str:
    """Return why a words file is refused, at the beginning and by an open segmenter."""
    with pytest.raises(Failed) as caught:
        library.open(demo, others.get("classes"), words_file=file)
    assert caught.value.status == "bad input" and "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"model_sha256": "b" * 64}, "was tuned on another model (checkpoint 'bbbbbbbbbbbb', not"),
        ({"embeddings": np.eye(6, 8, dtype=np.float32)}, "was tuned on another model"),
        ({"entries": ["road", "blue"]}, "has no row for 'blue'; tune the words again"),
        ({"entries": ["road", "Road"]}, "'Road' occurs twice, in entry 1 of words file"),
        ({"entries": ["road,car"]}, "has a comma"),
        ({"entries": ["road@2"]}, "has the threshold '2'"),
        ({"entries": []}, "has no readable list of entries"),
        ({"entries": "road"}, "has no row for 'r'"),
    ],
)
def test_files_that_do_not_fit_are_refused(
    library: Library, demo: Path, tuned: Callable[..., Path], changed: Any, sentence: str
) -> None:
    file = tuned(**changed)
    with pytest.raises(BadInputError):  # by Python as well
        vocabulary = vocabulary_from_file(file)
        assert vocabulary.tuned is not None
        with Bundle.open(demo) as bundle:
            manifest = bundle.manifest
        vocabulary.tuned.check_model(manifest.checkpoint_sha256, manifest.spec.text_width)
    assert sentence in refused(library, demo, file)


def test_a_model_that_is_not_known_is_that_of_no_file(
    library: Library, demo: Path, tuned: Callable[..., Path], tmp_path: Path
) -> None:
    unknown = tmp_path / "unknown.dedos"
    with zipfile.ZipFile(demo) as archive:
        archive.extractall(unknown)
    manifest = json.loads((unknown / "manifest.json").read_text())
    (unknown / "manifest.json").write_text(json.dumps({**manifest, "checkpoint_sha256": None}))
    said = refused(library, unknown, tuned(model_sha256=""))
    assert "was tuned on another model" in said and "not an unknown one" in said


def test_a_file_that_is_cut_off_anywhere_is_refused(
    library: Library, demo: Path, tuned: Callable[..., Path]
) -> None:
    file = tuned()
    whole = file.read_bytes()
    with library.open(demo, "road,sky") as segmenter:
        for length in [*range(0, 800, 33), len(whole) - 1]:
            file.write_bytes(whole[:length])
            with pytest.raises(
                Failed, match="words file .*(no embeddings|cannot be used)"
            ) as caught:
                segmenter.set_words_file(file)
            assert caught.value.status == "bad input"
        file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(Failed, match="cannot be used: vocabulary is damaged"):
            segmenter.set_words_file(file)
        # The words that were there stay, and the whole file is taken all the same.
        assert segmenter.segment(np.zeros((8, 8, 3), np.uint8)).classes == ("road", "sky")
        file.write_bytes(whole)
        assert segmenter.set_words_file(file) == 2


def test_other_files_are_refused(library: Library, demo: Path, tmp_path: Path) -> None:
    stored = save_vocabulary(tmp_path / "stored", ["road"], np.eye(1, 384, dtype=np.float32))
    assert "without the model that they were tuned on" in refused(library, demo, stored)
    (tmp_path / "text.words").write_text("road\ncar\n")
    assert "holds no embeddings" in refused(library, demo, tmp_path / "text.words")
    assert refused(library, demo, tmp_path / "none").endswith("check the path")
    assert "is not a regular file" in refused(library, demo, tmp_path)
    assert "give one, and NULL for the other" in refused(library, demo, stored, classes="road")
    with pytest.raises(Failed, match="classes is NULL"):
        library.open(demo, None)
