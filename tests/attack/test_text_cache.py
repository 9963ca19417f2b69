"""Text rows that one bundle leaves for others: nothing but what decides an embedding reaches them."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

sys.path += [str(Path(__file__).parents[1] / "runtime")]

from tiny_bundle import text_graph, write_tiny_bundle  # noqa: E402

from dedos_deploy.bundle import Bundle  # noqa: E402
from dedos_deploy.errors import BadBundleError  # noqa: E402
from dedos_deploy.runtime.loading import bundle_parts  # noqa: E402

VICTIM = "lorry"


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("DEDOS_CACHE_DIR", str(folder))
    return folder


@pytest.fixture(scope="module")
def genuine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "genuine")


def row_of(bundle: Path | Bundle, word: str) -> NDArray[np.float32]:
    parts = bundle_parts(bundle, background="threshold", threshold=None)
    try:
        return parts.encode([word])[0]
    finally:
        parts.close()


def evil_tokenizer(folder: Path) -> None:
    """Reads the victim as another word."""
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    tokens = content["model"]["vocab"]
    for mine, other in zip(VICTIM, "sky", strict=False):
        tokens[mine], tokens[other] = tokens[other], tokens[mine]
    path.write_text(json.dumps(content))


def evil_tower(folder: Path) -> None:
    """Gives other rows."""
    model = onnx.load_model_from_string(text_graph())
    weights = onnx.numpy_helper.to_array(model.graph.initializer[0])
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(-weights[::-1], "weights"))
    (folder / "text_encoder.onnx").write_bytes(model.SerializeToString())


def rewrite_manifest(folder: Path, **changes: Any) -> None:
    """Make the manifest promise what is there."""
    path = folder / "manifest.json"
    manifest = {**json.loads(path.read_text()), **changes}
    for name in manifest["files"]:
        manifest["files"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    path.write_text(json.dumps(manifest))


@pytest.mark.parametrize("damage", [evil_tokenizer, evil_tower])
def test_a_consistent_bundle_poisons_only_itself(
    damage: Callable[[Path], None], genuine: Path, tmp_path: Path, cache_folder: Path
) -> None:
    clean = row_of(genuine, VICTIM)
    shutil.rmtree(cache_folder)
    evil = shutil.copytree(genuine, tmp_path / "evil")
    damage(evil)
    rewrite_manifest(evil)
    poison = row_of(evil, VICTIM)
    assert not np.allclose(poison, clean)
    np.testing.assert_array_equal(row_of(genuine, VICTIM), clean)
    np.testing.assert_array_equal(row_of(evil, VICTIM), poison)


@pytest.mark.parametrize("damage", [evil_tokenizer, evil_tower])
def test_a_bundle_that_promises_other_files_than_it_has_poisons_nobody(
    damage: Callable[[Path], None], genuine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opened without looking at the hashes of its files, as a program may do with large ones."""
    monkeypatch.setattr("dedos_deploy.bundle._verify.SMALL_FILE", -1)
    evil = shutil.copytree(genuine, tmp_path / "evil")
    damage(evil)
    with (
        Bundle.open(evil, verify=False) as bundle,
        pytest.raises(BadBundleError, match="has the sha256 .*the manifest promises"),
    ):
        row_of(bundle, VICTIM)
    clean = row_of(genuine, VICTIM)
    # What the genuine bundle left may serve the other one: it is what its manifest promises.
    with Bundle.open(evil, verify=False) as bundle:
        np.testing.assert_array_equal(row_of(bundle, VICTIM), clean)


@pytest.mark.parametrize("damage", [evil_tokenizer, evil_tower])
def test_files_swapped_after_the_check_are_not_run(
    damage: Callable[[Path], None], genuine: Path, tmp_path: Path
) -> None:
    swapped = shutil.copytree(genuine, tmp_path / "swapped")
    with Bundle.open(swapped) as bundle:
        parts = bundle_parts(bundle, background="threshold", threshold=None)
        damage(swapped)
        with pytest.raises(BadBundleError, match="the manifest promises"):
            parts.encode([VICTIM])
    assert row_of(genuine, VICTIM) is not None


def test_other_templates_are_other_rows(genuine: Path, tmp_path: Path) -> None:
    clean = row_of(genuine, VICTIM)
    evil = shutil.copytree(genuine, tmp_path / "evil")
    rewrite_manifest(evil, templates=["not a {}"])
    assert not np.allclose(row_of(evil, VICTIM), clean)
    np.testing.assert_array_equal(row_of(genuine, VICTIM), clean)
