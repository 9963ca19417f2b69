"""Confidence curves in a bundle: there and back, in place and in a copy, and what is refused."""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dedos_deploy.bundle import MODEL, Bundle, BundleWriter
from dedos_deploy.bundle import edit as edit_module
from dedos_deploy.bundle._names import curves_file
from dedos_deploy.bundle.edit import set_confidence_curves, set_thresholds
from dedos_deploy.confidence_curves import ConfidenceCurves
from dedos_deploy.errors import BadBundleError, BadInputError, SinkError, UnsupportedVersionError

Write = Callable[[Path], Path]
LEVELS = np.arange(256, dtype=np.uint8)


def curves_of(path: Path, halved: bool = True) -> ConfidenceCurves:
    with Bundle.open(path) as bundle:
        graph = bundle.manifest.files[MODEL]
    return ConfidenceCurves(
        graph, LEVELS // (2 if halved else 1), {"car": LEVELS}, {"split": "val"}
    )


def read(path: Path) -> ConfidenceCurves | None:
    with Bundle.open(path) as bundle:
        return bundle.confidence_curves()


@pytest.mark.parametrize("name", ["street.dedos", "street"])
def test_there_and_back(write: Write, tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name)
    assert read(path) is None
    before = (
        {p.name: p.read_bytes() for p in path.iterdir() if p.is_file()} if path.is_dir() else {}
    )
    given = curves_of(path)
    assert set_confidence_curves(path, given) == path
    found = read(path)
    assert found is not None and found.sha256 == given.sha256 and found.learned == {"split": "val"}
    assert np.array_equal(
        found.rows(("road", "car", "tree")), np.stack([LEVELS // 2, LEVELS, *[LEVELS // 2] * 2])
    )
    assert np.array_equal(found.rows(("car",), without={"car"}), np.stack([LEVELS // 2] * 2))
    set_thresholds(path, {"road": 0.2})
    set_confidence_curves(path, curves_of(path, halved=False))
    found = read(path)
    assert found is not None and np.array_equal(found.overall, LEVELS)
    with Bundle.open(path) as bundle:
        assert bundle.manifest.thresholds["road"] == 0.2
        assert sum("confidence-" in file for file in bundle.manifest.files) == 1
    for file, content in before.items():
        if file != "manifest.json":
            assert (path / file).read_bytes() == content
    copy = set_confidence_curves(path, curves_of(path), dest=tmp_path / "copy.dedos")
    assert read(copy) is not None and np.array_equal(read(path).overall, LEVELS)  # type: ignore[union-attr]


def test_a_folder_that_could_not_be_changed_is_as_it_was(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "street")
    set_confidence_curves(path, curves_of(path))
    was = (path / "manifest.json").read_bytes()
    steps: list[Path] = []

    def stop(target: Path, content: bytes) -> None:
        steps.append(target)
        if target.name == "manifest.json":
            raise KeyboardInterrupt
        target.write_bytes(content)

    monkeypatch.setattr(edit_module, "write_atomically", stop)
    with pytest.raises(KeyboardInterrupt):
        set_confidence_curves(path, curves_of(path, halved=False))
    assert (path / "manifest.json").read_bytes() == was
    with pytest.raises(BadBundleError, match="is not listed in manifest.json; remove it"):
        read(path)
    steps[0].unlink()
    found = read(path)
    assert found is not None and np.array_equal(found.overall, LEVELS // 2)


def test_an_old_file_that_stays_is_named(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "street")
    set_confidence_curves(path, curves_of(path))
    (old,) = path.glob("confidence-*.json")

    def unlink(self: Path, missing_ok: bool = False) -> None:
        assert self == old
        raise OSError(errno.EPERM, "Operation not permitted")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", unlink)
        with pytest.raises(
            SinkError, match=f"is written, but '{old.name}', which it no longer lists"
        ):
            set_confidence_curves(path, curves_of(path, halved=False))
    old.unlink()
    found = read(path)
    assert found is not None and np.array_equal(found.overall, LEVELS)


def damaged(path: Path, **changed: Any) -> Path:
    content = json.loads(curves_of(path).to_json())
    text = json.dumps({k: v for k, v in {**content, **changed}.items() if v is not None}).encode()
    dest = path.with_name("damaged.dedos")
    with Bundle.open(path) as bundle, BundleWriter(dest, overwrite=True) as writer:
        writer.add_all(bundle)
        writer.add_bytes(curves_file(hashlib.sha256(text).hexdigest()), text)
        return writer.commit(bundle.manifest)


def test_damaged_curves_are_refused_in_a_sentence(write: Write, tmp_path: Path) -> None:
    path = write(tmp_path / "street.dedos")
    falling = [1, 0, *range(2, 256)]
    cases = (
        (
            {"graph_sha256": "0" * 64},
            r"learned with another graph \(000000000000, not .*calibrate this",
        ),
        ({"overall": falling}, "field 'overall' falls"),
        (
            {"overall": [0] * 255},
            "field 'overall' has 255 values, not 256; calibrate the bundle again",
        ),
        ({"overall": [0] * 255 + [256]}, "has a value outside of 0 to 255"),
        ({"classes": {"car": [0.5] * 256}}, r"classes.car\[0\]"),
        ({"overall": None}, "key 'overall' is missing"),
        ({"more": 1}, "unknown key 'more'"),
        ({"format": "other"}, "field 'format' must be"),
    )
    for changed, message in cases:
        with pytest.raises(BadBundleError, match=message):
            read(damaged(path, **changed))
    with pytest.raises(UnsupportedVersionError, match="field 'version' is 2, .* install a newer"):
        read(damaged(path, version=2))


def test_what_cannot_be_changed(write: Write, tmp_path: Path) -> None:
    path = write(tmp_path / "street")
    other = ConfidenceCurves("0" * 64, LEVELS, {})
    with pytest.raises(BadBundleError, match="learned with another graph"):
        set_confidence_curves(path, other)
    with pytest.raises(BadInputError, match="embedded bundle cannot be changed"):
        set_confidence_curves("demo", other)
    file = next(iter(set_confidence_curves(path, curves_of(path)).glob("confidence-*.json")))
    file.write_text(file.read_text().replace("127", "126", 1))
    with pytest.raises(BadBundleError, match="was changed or damaged"):
        read(path)


def test_two_files_are_refused(write: Write, tmp_path: Path) -> None:
    path = write(tmp_path / "street.dedos")
    with Bundle.open(path) as bundle, BundleWriter(tmp_path / "two") as writer:
        writer.add_all(bundle)
        for digest in ("0" * 64, "1" * 64):
            writer.add_bytes(curves_file(digest), digest.encode())
        with pytest.raises(BadBundleError, match="lists confidence curves twice"):
            writer.commit(bundle.manifest)
