"""libdedos gives what the Python runtime gives, to the bit: label maps, confidence, counts, ids."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bindings import BACKGROUNDS, Failed, Labelled, Library
from numpy.typing import NDArray

from dedos_deploy.bundle import MODEL, Bundle, BundleWriter
from dedos_deploy.bundle._names import curves_file
from dedos_deploy.bundle.edit import set_confidence_curves
from dedos_deploy.confidence_curves import ConfidenceCurves
from dedos_deploy.errors import BadBundleError, UnsupportedVersionError
from dedos_deploy.runtime import Nv12Frame, Segmentation, Segmenter
from dedos_deploy.runtime.loading import tower_files
from dedos_deploy.scenes import render_image
from dedos_deploy.text import EmbeddingCache, TextEncoder

KNOWN = "road,car|automobile@0.15#0000ff,sky"
NEW = (
    "traffic light@0.1,stop sign's pole|sign post,Wooden  BENCH,zebra-crossing#ffffff,floor & wall,"
    "qwzx 12 (old),a\\,b"
)


@pytest.fixture(scope="module")
def frames() -> list[NDArray[np.uint8]]:
    """Pictures of the network's size, larger, smaller, odd, and twice and thrice as large."""
    sizes = ((352, 480), (480, 640), (97, 211), (361, 513), (704, 960), (300, 200), (1056, 1440))
    return [render_image("street", seed=n, size_hw=size)[0] for n, size in enumerate(sizes)]


def check_equal(ours: Labelled, theirs: Segmentation) -> None:
    assert ours.label_map.dtype == theirs.label_map.dtype
    np.testing.assert_array_equal(ours.label_map, theirs.label_map)
    np.testing.assert_array_equal(ours.confidence, theirs.confidence)
    np.testing.assert_array_equal(ours.counts, theirs.counts)
    for name in ("classes", "class_ids", "none_id", "vocabulary_version"):
        assert getattr(ours, name) == getattr(theirs, name)


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_frames_of_all_sizes(
    library: Library, demo: Path, frames: list[NDArray[np.uint8]], background: str
) -> None:
    ours = library.open(demo, KNOWN, background=background)
    theirs = Segmenter.load(demo, classes=KNOWN, background=background)  # type: ignore[arg-type]
    with ours, theirs:
        for frame in frames:
            check_equal(ours.segment(frame), theirs.segment(frame))
        assert ours.set_classes(NEW) == theirs.set_classes(NEW) == 2
        labelled = theirs.segment(frames[0])
        check_equal(ours.segment(frames[0]), labelled)
        assert len(np.unique(labelled.label_map)) > 1


def test_rgb_and_rows_apart(library: Library, demo: Path, frames: list[NDArray[np.uint8]]) -> None:
    with library.open(demo, KNOWN) as ours, Segmenter.load(demo, classes=KNOWN) as theirs:
        for frame in frames[:3]:
            check_equal(ours.segment(frame, "rgb"), theirs.segment(frame, order="rgb"))
        wide = np.zeros((97, 300, 3), np.uint8)
        wide[:, :211] = frames[2]
        check_equal(ours.segment(wide[:, :211]), theirs.segment(frames[2]))


def test_nv12_of_all_matrices(library: Library, demo: Path) -> None:
    rows = np.random.default_rng(0).integers(0, 256, (360, 322), dtype=np.uint8)
    with library.open(demo, KNOWN) as ours, Segmenter.load(demo, classes=KNOWN) as theirs:
        for number in range(4):
            given = Nv12Frame.from_rows(
                rows, matrix="bt709" if number > 1 else "bt601", full_range=bool(number % 2)
            )
            check_equal(ours.segment(rows, "nv12", number), theirs.segment(given))


def test_ids_of_a_session_of_more_names_than_fit(
    library: Library, demo: Path, frames: list[NDArray[np.uint8]], tmp_path: Path
) -> None:
    words = [f"thing {number}" for number in range(300)]
    with Bundle.open(demo) as bundle:
        manifest = bundle.manifest
        encoder = TextEncoder(
            tower_files(bundle),
            templates=tuple(manifest.templates),
            template_name=manifest.template_name,
            known={},
            cache=EmbeddingCache(),  # for the other side; ours has the file
        )
        file = encoder.save_vocabulary(tmp_path / "words", words)
    ours = library.open(demo, KNOWN, vocabulary_files=[file])
    with ours, Segmenter.load(demo, classes=KNOWN) as theirs:
        for chosen in (words[:200], words[100:260], words[250:290], words, ["road", *words[:10]]):
            classes = ",".join(chosen)
            assert ours.set_classes(classes) == theirs.set_classes(classes)
            check_equal(ours.segment(frames[2]), theirs.segment(frames[2]))


def test_a_folder_and_a_threshold(
    library: Library, demo: Path, frames: list[NDArray[np.uint8]]
) -> None:
    with Bundle.open(demo) as bundle:
        ours = library.open(bundle.folder, KNOWN, threshold=0.6, threads=1, verify=False)
        theirs = Segmenter.load(bundle, classes=KNOWN, threshold=0.6, threads=1)
        with ours, theirs:
            check_equal(ours.segment(frames[1]), theirs.segment(frames[1]))


def test_a_calibrated_bundle(
    library: Library, demo: Path, frames: list[NDArray[np.uint8]], tmp_path: Path
) -> None:
    levels = np.arange(256)
    with Bundle.open(demo) as bundle:
        curves = ConfidenceCurves(
            bundle.manifest.files[MODEL],
            (levels // 2).astype(np.uint8),
            {"sky": np.sqrt(255 * levels).astype(np.uint8), "nie": levels.astype(np.uint8)},
        )
    calibrated = set_confidence_curves(demo, curves, dest=tmp_path / "calibrated.dedos")
    with (
        library.open(calibrated, KNOWN) as ours,
        Segmenter.load(calibrated, classes=KNOWN) as theirs,
    ):
        labelled = theirs.segment(frames[1])
        check_equal(ours.segment(frames[1]), labelled)
        assert labelled.calibrated and len(np.unique(labelled.label_map)) > 2
        with library.open(demo, KNOWN) as raw:
            scores = raw.segment(frames[1])
        assert np.array_equal(scores.label_map, labelled.label_map)
        assert (scores.confidence != labelled.confidence).mean() > 0.5
        words = ",".join(f"thing {number}" for number in range(260))
        theirs.set_classes(words)
        ours.set_classes(words)
        check_equal(ours.segment(frames[2]), theirs.segment(frames[2]))


def test_a_bundle_with_trust_tiles_and_curves(
    library: Library, demo: Path, frames: list[NDArray[np.uint8]], tmp_path: Path
) -> None:
    path, levels = tmp_path / "all.dedos", np.arange(256, dtype=np.uint8)
    with Bundle.open(demo) as bundle, BundleWriter(path) as writer:
        assert bundle.trust() is not None
        writer.add_all(bundle)
        writer.commit(replace(bundle.manifest, tiles="1x2"))
    with Bundle.open(path) as bundle:
        curves = ConfidenceCurves(bundle.manifest.files[MODEL], levels // 2, {"sky": levels})
    set_confidence_curves(path, curves)
    with pytest.raises(Failed, match="asks for tiles '1x2'"):
        library.open(path, KNOWN)
    with (
        library.open(path, KNOWN, ignore_tiles=True) as ours,
        Segmenter.load(path, classes=KNOWN, tiles="off") as theirs,
    ):
        for frame in frames[:2]:
            labelled = theirs.segment(frame)
            check_equal(ours.segment(frame), labelled)
            assert labelled.calibrated and labelled.trust is not None


def test_damaged_curves_are_refused(library: Library, demo: Path, tmp_path: Path) -> None:
    with Bundle.open(demo) as bundle:
        graph = bundle.manifest.files[MODEL]
        text = ConfidenceCurves(graph, np.arange(256, dtype=np.uint8), {}).to_json()
        for number, (old, new, message) in enumerate(
            (
                (graph, "0" * 64, "learned with another graph"),
                ('"overall": [0, 1', '"overall": [2, 1', "field 'overall' falls"),
                ('"overall": [0, 1', '"overall": [1', "no list of 256 values"),
                ('"overall": [0, 1', '"overall": [-1, 1', "no whole number from 0 to 255"),
                ('"version": 1', '"version": 2', "is 2, but this libdedos reads up to 1"),
                ('"learned"', '"unlearned"', "key 'learned' is missing"),
            )
        ):
            content = text.replace(old, new).encode()
            dest = tmp_path / f"{number}.dedos"
            with BundleWriter(dest) as writer:
                writer.add_all(bundle)
                writer.add_bytes(curves_file(hashlib.sha256(content).hexdigest()), content)
                writer.commit(bundle.manifest)
            with pytest.raises(Failed, match=message):
                library.open(dest, KNOWN)
            with pytest.raises((BadBundleError, UnsupportedVersionError)):
                Segmenter.load(dest, classes=KNOWN)
