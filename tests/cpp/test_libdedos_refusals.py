"""What libdedos refuses: with the right status, one sentence, and nothing left behind."""

from __future__ import annotations

import ctypes
import os
import signal
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_bundles
from bindings import Failed, Library, onnx_runtime

from dedos_deploy.bundle import Bundle
from dedos_deploy.errors import BadBundleError, BadInputError
from dedos_deploy.text import save_vocabulary
from dedos_deploy.tiles import check_tiles, parse_tiles
from dedos_deploy.trust import trust_from_bytes

Files = dict[str, bytes]
TILES = (
    "off",
    " AUTO ",
    "2x3",
    "16X16",
    "16x17",
    "0x3",
    "2x",
    "x",
    "-1",
    "0",
    "9",
    "10",
    "",
    "2x3x4",
)
"""Of a network of 12x16, whose longest stride is 9."""


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return small_bundles.files(tmp_path)


def refused(library: Library, bundle: Path, classes: str = "road", **options: Any) -> Failed:
    with pytest.raises(Failed) as caught:
        library.open(bundle, classes, **options)
    assert "\n" not in str(caught.value)
    return caught.value


def test_a_sound_small_bundle_is_refused_only_for_its_graph(
    library: Library, files: Files, tmp_path: Path
) -> None:
    for deflated in (False, True):
        path = tmp_path / "small.dedos"
        listing = small_bundles.manifest(files)
        path.write_bytes(small_bundles.archive(files, listing, deflated=deflated))
        error = refused(library, path)
        assert error.status == "engine error" and "cannot load model.onnx" in str(error)


@pytest.mark.parametrize(
    ("change", "status", "part"),
    [
        ({"format_version": 2}, "unsupported version", "is 2, but this libdedos reads up to 1"),
        ({"surplus": 1}, "bad bundle", "unknown key 'surplus'"),
        ({"templates": ["no place"]}, "bad bundle", "must have one {}"),
        ({"context_length": 15}, "bad bundle", "is not 'config.clip.text.context_length'"),
        ({"default_threshold": 1.5}, "bad bundle", "'default_threshold' must lie in [0, 1]"),
        ({"base_vocabulary": "other"}, "bad bundle", "'vocabularies' does not list"),
        ({"base_vocabulary": ""}, "bad bundle", "must be null or a text that is not empty"),
        ({"checkpoint_sha256": ""}, "bad bundle", "must be null or a text that is not empty"),
        (
            {"spec": small_bundles.spec(pooled_width=3)},
            "bad bundle",
            "is 3, but 'files' does not list",
        ),
        ({"target": "tpu"}, "bad bundle", "must be one of 'cpu'"),
        ({"preset": 3}, "bad bundle", "'preset' must be a string, not a number"),
        ({"tiles": 3}, "bad bundle", "'tiles' must be a string, not a number"),
    ],
)
def test_a_manifest(
    library: Library,
    files: Files,
    tmp_path: Path,
    change: dict[str, Any],
    status: str,
    part: str,
) -> None:
    path = tmp_path / "small.dedos"
    path.write_bytes(small_bundles.archive(files, small_bundles.manifest(files, **change)))
    error = refused(library, path)
    assert error.status == status and part in str(error)


def test_statistics_of_trust_are_of_the_graph(
    library: Library, files: Files, tmp_path: Path
) -> None:
    path, name = tmp_path / "small.dedos", "trust.safetensors"
    damages: list[tuple[bytes, int, str]] = [
        (
            small_bundles.trust(4),
            0,
            "'spec.pooled_width' is 0, but 'files' lists 'trust.safetensors'",
        ),
        (small_bundles.trust(4), 3, "is damaged (it is of 4 features, and the graph gives 3)"),
        (small_bundles.trust(4).replace(b"dedos-trust", b"dedos-crust"), 4, "has no format"),
        (small_bundles.trust(4)[:400], 4, "is damaged (it ends too early)"),
        (small_bundles.trust(4).replace(b"0.scale", b"1.scale"), 4, "it is of 0 features"),
    ]
    for content, width, part in damages:
        held = {**files, name: content}
        spec = small_bundles.spec(pooled_width=width)
        path.write_bytes(small_bundles.archive(held, small_bundles.manifest(held, spec=spec)))
        error = refused(library, path)
        assert error.status == "bad bundle" and part in str(error), str(error)
        # The Python package refuses those files, too.
        with pytest.raises(BadBundleError):
            trust_from_bytes(content, width=width, name=name)
    newer = {**files, name: small_bundles.trust(4).replace(b'"version":"1"', b'"version":"2"')}
    spec = small_bundles.spec(pooled_width=4)
    path.write_bytes(small_bundles.archive(newer, small_bundles.manifest(newer, spec=spec)))
    assert refused(library, path).status == "unsupported version"
    sound = {**files, name: small_bundles.trust(4)}
    path.write_bytes(small_bundles.archive(sound, small_bundles.manifest(sound, spec=spec)))
    assert "cannot load model.onnx" in str(refused(library, path))


@pytest.mark.parametrize("tiles", TILES)
def test_tiles_are_taken_as_in_python(
    library: Library, files: Files, tmp_path: Path, tiles: str
) -> None:
    path = tmp_path / "small.dedos"
    listing = small_bundles.manifest(
        files, tiles=tiles, spec=small_bundles.spec(height=12, width=16)
    )
    path.write_bytes(small_bundles.archive(files, listing))
    error = refused(library, path, ignore_tiles=True)
    try:
        check_tiles(parse_tiles(tiles), (12, 16))
    except BadInputError:
        assert error.status == "bad bundle" and "field 'tiles' must be" in str(error)
    else:
        assert error.status == "engine error"


def _changed_file(content: bytes) -> bytes:
    return content.replace(b"sequence", b"sequencf").replace(b'"vocab"', b'"vocac"')


def _overlapping(content: bytes) -> bytes:
    # The second file's entry says that it begins where the first does.
    at = content.index(b"PK\1\2", content.index(b"PK\1\2") + 4)
    return content[: at + 42] + struct.pack("<I", 0) + content[at + 46 :]


@pytest.mark.parametrize(
    ("damage", "part"),
    [
        (lambda content: content[:-30], "not a complete .dedos file"),
        (lambda content: b"", "not a complete .dedos file"),
        (_changed_file, "is damaged"),
        (_overlapping, "overlaps what follows it"),
        (lambda content: content.replace(b"model.onnx", b"../el.onnx"), "a bundle may not use"),
    ],
    ids=["cut", "empty", "changed", "overlapping", "leading out"],
)
def test_an_archive(
    library: Library,
    files: Files,
    tmp_path: Path,
    damage: Callable[[bytes], bytes],
    part: str,
) -> None:
    path = tmp_path / "small.dedos"
    path.write_bytes(damage(small_bundles.archive(files, small_bundles.manifest(files))))
    error = refused(library, path)
    assert error.status == "bad bundle" and part in str(error)
    # The Python package refuses all of them, too.
    with pytest.raises(BadBundleError):
        Bundle.open(path)


def test_tiles_are_not_left_out_in_silence(library: Library, files: Files, tmp_path: Path) -> None:
    path = tmp_path / "small.dedos"
    for tiles, ignored in (("2x3", False), ("2x3", True), ("off", False)):
        path.write_bytes(small_bundles.archive(files, small_bundles.manifest(files, tiles=tiles)))
        error = refused(library, path, ignore_tiles=ignored)
        if tiles == "2x3" and not ignored:
            assert error.status == "bad input"
            assert "asks for tiles '2x3'" in str(error) and "set ignore_tiles" in str(error)
        else:  # what a small bundle comes to
            assert error.status == "engine error" and "cannot load model.onnx" in str(error)


def test_a_changed_file_is_seen_by_its_hash(library: Library, files: Files, tmp_path: Path) -> None:
    listing = small_bundles.manifest(files)
    path = tmp_path / "small.dedos"
    path.write_bytes(small_bundles.archive({**files, "model.onnx": b"n"}, listing))
    assert "its SHA-256 begins" in str(refused(library, path))
    path.write_bytes(small_bundles.archive({**files, "extra": b""}, listing))
    assert "'extra' is not listed in manifest.json" in str(refused(library, path))
    folder = tmp_path / "small"
    for name, content in {**files, "text_encoder.onnx": b"x"}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    (folder / "manifest.json").write_text(small_bundles.as_json(listing))
    assert "'text_encoder.onnx' was changed or damaged" in str(refused(library, folder))
    (folder / "text_encoder.onnx").unlink()
    assert "is missing" in str(refused(library, folder))
    (folder / "text_encoder.onnx").symlink_to("/etc/passwd")
    assert "leads out of the bundle" in str(refused(library, folder))


def test_words(library: Library, demo: Path) -> None:
    with library.open(demo, "road") as segmenter:
        for classes, part in (
            ("Straße", "only words in ASCII"),
            ("a&amp;b", "only words in ASCII"),
            ("road,Road", "occurs twice"),
            ("word " * 40, "tokens, the text tower takes 32"),
            ("a <end_of_text>", "marks the start or end"),
        ):
            with pytest.raises(Failed, match=part) as caught:
                segmenter.set_classes(classes)
            assert caught.value.status == "bad input"
        # The old list stays.
        result = segmenter.segment(np.zeros((8, 8, 3), np.uint8))
        assert result.classes == ("road",) and result.vocabulary_version == 1


def test_a_vocabulary_file_brings_other_words(library: Library, demo: Path, tmp_path: Path) -> None:
    with Bundle.open(demo) as bundle:
        files = bundle.manifest.files
        identity = {
            "text_tower_sha256": files["text_encoder.onnx"],
            "tokenizer_sha256": files["tokenizer.json"],
            "context_length": "32",
            "templates": "\n".join(bundle.manifest.templates),
            "text_width": "384",
        }
    row = np.eye(1, 384, dtype=np.float32)
    good = save_vocabulary(tmp_path / "good", ["Straße"], row, identity)
    with library.open(demo, "Straße,road", vocabulary_files=[good]) as segmenter:
        assert segmenter.segment(np.zeros((8, 8, 3), np.uint8)).classes == ("Straße", "road")
    other = save_vocabulary(tmp_path / "other", ["x"], row, {**identity, "context_length": "77"})
    error = refused(library, demo, vocabulary_files=[other])
    assert "has context_length '77', this bundle '32'" in str(error)
    error = refused(library, demo, vocabulary_files=[tmp_path / "none"])
    assert error.status == "bad input" and str(error).endswith("check the path")


def test_arguments(library: Library, demo: Path, tmp_path: Path) -> None:
    assert refused(library, tmp_path / "none").status == "bad input"
    assert "is not a regular file" in str(refused(library, Path("/dev/null")))
    assert "threads must be at least 1" in str(refused(library, demo, threads=-1))
    assert "must lie in [0, 1]" in str(refused(library, demo, threshold=1.5))
    error = refused(library, demo, onnxruntime=demo)
    assert error.status == "engine error" and "name its libonnxruntime.so" in str(error)
    whole = onnx_runtime()
    for length in (0, 40, 4096, whole.stat().st_size // 2):
        cut = tmp_path / "cut.so"
        with whole.open("rb") as stream:
            cut.write_bytes(stream.read(length))
        error = refused(library, demo, onnxruntime=cut)
        assert error.status == "engine error" and "is not usable (" in str(error)
        assert length < 64 or f"is cut off after {length} bytes; copy it again" in str(error)
    library.c.dedos_close(None)
    library.c.dedos_result_free(None)
    with pytest.raises(Failed, match="bundle is NULL"):
        library.check(library.c.dedos_open(None, b"", None, ctypes.byref(ctypes.c_void_p())))


def test_frames(library: Library, demo: Path) -> None:
    with library.open(demo, "road") as segmenter:
        with pytest.raises(Failed, match="holds no frame"):
            segmenter.result()
        with pytest.raises(Failed, match="even sides, not 8x7"):
            segmenter.segment(np.zeros((12, 7), np.uint8), "nv12")
        with pytest.raises(Failed, match="format 9 of a frame is unknown"):
            segmenter.segment(np.zeros((12, 8), np.uint8), "nv12", matrix=7)
        narrow = np.zeros((4, 4, 3), np.uint8)[:, :2]
        wrong = np.lib.stride_tricks.as_strided(narrow, strides=(5, 3, 1))
        with pytest.raises(Failed, match="pitch of a frame is 5"):
            segmenter.segment(wrong)
        with pytest.raises(Failed, match=f"pitch of a frame is {1 << 62}"):
            segmenter.segment(np.lib.stride_tricks.as_strided(wrong[:1], strides=(1 << 62, 3, 1)))
        # What a failed call leaves is no frame's, of an earlier one neither.
        segmenter.segment(np.zeros((8, 8, 3), np.uint8))
        with pytest.raises(Failed, match="pitch of a frame is 5"):
            segmenter.segment(wrong)
        with pytest.raises(Failed, match="holds no frame"):
            segmenter.result()


def test_a_forked_child(library: Library, demo: Path) -> None:
    with library.open(demo, "road") as segmenter:
        child = os.fork()
        if child == 0:
            # Closing would wait for threads that are the parent's; nothing of pytest may run here.
            signal.signal(signal.SIGALRM, signal.SIG_DFL)  # whatever pytest does with it
            signal.alarm(20)
            refused = 0
            try:
                segmenter.segment(np.zeros((8, 8, 3), np.uint8))
            except Failed as error:
                refused = "open one after the fork" in str(error)
            segmenter.close()
            os._exit(7 * refused)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        assert segmenter.segment(np.zeros((8, 8, 3), np.uint8)).classes == ("road",)
