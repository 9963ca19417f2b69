"""Bundle: opens a bundle, holds it against its manifest, and gives its parts out by name."""

from __future__ import annotations

import logging
import os
import shutil
import stat
import weakref
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from dedos_deploy.bundle._names import (
    EXAMPLES,
    MANIFEST,
    MODEL,
    PARITY_FOLDER,
    TRUST,
    batch_file,
    batch_of,
    is_curves_file,
    vocabulary_file,
)
from dedos_deploy.bundle._unpack import unpack
from dedos_deploy.bundle._verify import read_file, verify_folder
from dedos_deploy.bundle.manifest import Manifest
from dedos_deploy.closing import Closing
from dedos_deploy.errors import (
    BadBundleError,
    BadInputError,
    UnsupportedVersionError,
    listed,
    nearest,
    shown,
)
from dedos_deploy.files import sha256_of_file
from dedos_deploy.spec import GraphSpec
from dedos_deploy.user_cache import open_to_others

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from dedos_deploy.confidence_curves import ConfidenceCurves
    from dedos_deploy.pictures import Picture
    from dedos_deploy.trust import TrustStatistics

logger = logging.getLogger(__name__)

DEMO_NAME = "demo"
"""The name of the bundle embedded in the package."""

MOST_PARITY_FRAMES = 4
PARITY_FRAME_SIDE = 640
"""Pixels of the longer side of a parity frame at most."""

_DEMO_FILE = Path(__file__).parent.parent / "assets" / "demo.dedos"


@dataclass(frozen=True)
class BundleGraph:
    """One image graph of a bundle."""

    path: Path
    """Its ONNX file."""

    spec: GraphSpec
    """Its tensors."""

    sha256: str
    """Of the file, in hexadecimal."""


class Bundle(Closing):
    """An open bundle; use it as a context manager, or call `close`.

    manifest: its checked manifest; folder: where its files lie, which for a `.dedos` file is the
    user's cache; name: what it was opened as.

    with Bundle.open("demo") as bundle:
        print(bundle.manifest.preset, bundle.spec.height, bundle.spec.width)
    """

    def __init__(self, manifest: Manifest, folder: Path, *, name: str, temporary: bool) -> None:
        self.manifest = manifest
        self.folder = folder
        self.name = name
        self._label = _label(name)
        self._vocabularies: dict[str, tuple[tuple[str, ...], NDArray[np.float32]]] = {}
        self._remove = (
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True) if temporary else None
        )

    @classmethod
    def open(cls, path_or_name: str | os.PathLike[str], *, verify: bool = True) -> Bundle:
        """Return the bundle in a folder, in a `.dedos` file, or the embedded one called "demo".

        verify: compare the SHA-256 of every file with the manifest; False does so only for files
        under 1 MiB, which saves about a second per GB, and still checks all that is cheap.
        A folder that is called demo is opened as "./demo".

        Raises BadBundleError naming the first file or field that is wrong, UnsupportedVersionError
        for a bundle of a newer format, BadInputError when nothing is there.
        """
        name = os.fspath(path_or_name)
        path = _DEMO_FILE if name == DEMO_NAME else Path(name)
        label = _label(name)
        try:
            is_folder = stat.S_ISDIR(os.stat(path).st_mode)
        except (FileNotFoundError, NotADirectoryError):
            raise _nothing_there(name) from None
        except OSError as error:
            raise BadInputError(
                f"{label} cannot be read ({error.strerror}); check the path and its permissions"
            ) from error
        if is_folder:
            manifest = verify_folder(path, label=label, hashes=verify)
            _warn_if_open(path, manifest, label)
            return cls(manifest, path, name=name, temporary=False)
        found = unpack(path, label=label, hashes=verify)
        return cls(found.manifest, found.folder, name=name, temporary=found.temporary)

    @property
    def spec(self) -> GraphSpec:
        """The tensors of `model.onnx`."""
        return self.manifest.spec

    @property
    def sha256(self) -> str:
        """SHA-256 of its manifest, which holds those of all its files; the same of folder and `.dedos`."""
        return sha256_of_file(self.folder / MANIFEST)

    @property
    def batches(self) -> tuple[int, ...]:
        """Numbers of frames per run that it holds a graph for, in growing order."""
        others = (batch_of(name) for name in self.manifest.files)
        return tuple(sorted({self.spec.batch, *(batch for batch in others if batch is not None)}))

    def graph(self, batch: int | None = None) -> BundleGraph:
        """Return the graph for so many frames per run, `model.onnx` for None.

        Raises BadInputError naming the numbers that the bundle holds.
        """
        batch = self.spec.batch if batch is None else batch
        if batch not in self.batches:
            held = ", ".join(map(str, self.batches))
            raise BadInputError(
                f"{self._label} holds no graph for {batch} frames per run, only for {held}; choose one "
                "of these, or export it again with --batches"
            )
        name = MODEL if batch == self.spec.batch else batch_file(batch)
        spec = replace(self.spec, batch=batch)
        return BundleGraph(self.path(name), spec, self.manifest.files[name])

    def examples_graph(self) -> BundleGraph:
        """Return the graph that words by example are made with, image -> embedding, for one picture.

        Raises BadInputError for a bundle without one.
        """
        if EXAMPLES not in self.manifest.files:
            raise BadInputError(
                f"{self._label} was exported without --examples, so it cannot learn words from pictures; "
                f"export it again with it"
            )
        spec = replace(self.spec, batch=1)
        return BundleGraph(self.path(EXAMPLES), spec, self.manifest.files[EXAMPLES])

    def path(self, name: str) -> Path:
        """Return the path of a file that the manifest lists, for example `model.onnx`.

        What is opened by it was checked when the bundle was opened; see `read` for what is read whole.

        Raises BadBundleError when the bundle does not hold it.
        """
        if name not in self.manifest.files:
            raise BadBundleError(
                f"{self._label}: holds no file {shown(name)}{nearest(name, self.manifest.files)}; "
                f"it holds {listed(self.manifest.files)}"
            )
        return self.folder / name

    def read(self, name: str) -> bytes:
        """Return the content of a file that the manifest lists, of at most 2 GiB.

        The file is read once, and what is returned is what has the SHA-256 in the manifest, whatever
        happens to the file meanwhile.

        Raises BadBundleError when the bundle does not hold it, or no longer as it was.
        """
        self.path(name)
        expected = self.manifest.files[name]
        return read_file(self.folder, name, expected, label=self._label)

    def vocabulary(self, name: str) -> tuple[tuple[str, ...], NDArray[np.float32]]:
        """Return the words of a shipped vocabulary and their embeddings, float32 [N, D], unit rows.

        The array is read once and shared: copy it before writing to it.

        Raises BadBundleError when the bundle has no such vocabulary, or it is damaged.
        """
        if name not in self.manifest.vocabularies:
            known = self.manifest.vocabularies
            raise BadBundleError(
                f"{self._label}: holds no vocabulary {shown(name)}{nearest(name, known)}; it holds "
                f"{listed(known) or 'none'}"
            )
        if name not in self._vocabularies:
            self._vocabularies[name] = self._load_vocabulary(name)
        return self._vocabularies[name]

    @property
    def base_words(self) -> tuple[str, ...]:
        """Words of the base vocabulary, from which negatives are taken; empty without one."""
        base = self.manifest.base_vocabulary
        return self.vocabulary(base)[0] if base is not None else ()

    def known_embeddings(self) -> dict[str, NDArray[np.float32]]:
        """Return the shipped embedding of every word, float32 [D]; the base vocabulary wins."""
        base = self.manifest.base_vocabulary
        known: dict[str, NDArray[np.float32]] = {}
        for name in sorted(self.manifest.vocabularies, key=lambda name: name != base):
            words, embeddings = self.vocabulary(name)
            for word, row in zip(words, embeddings, strict=True):
                known.setdefault(word, row)
        return known

    def confidence_curves(self) -> ConfidenceCurves | None:
        """Return what scores of this bundle are worth, None for a bundle that was not calibrated.

        Raises BadBundleError for curves that are damaged or of another graph.
        """
        from dedos_deploy.confidence_curves import ConfidenceCurves

        names = [name for name in self.manifest.files if is_curves_file(name)]
        if not names:
            return None
        where = f"{self._label}: file {names[0]!r}"
        try:
            text = self.read(names[0]).decode()
        except UnicodeDecodeError as error:
            raise BadBundleError(
                f"{where}: is not UTF-8 text; calibrate the bundle again"
            ) from error
        return ConfidenceCurves.from_json(text, where=where, graph=self.manifest.files[MODEL])

    def parity_frames(self) -> list[Picture]:
        """Return frames that the exported graph was compared on, uint8 [H, W, 3] BGR, at most
        MOST_PARITY_FRAMES; none in bundles of earlier versions, or where they were left out.

        Raises BadBundleError for a file that is no picture, or a larger one than is written.
        """
        names = sorted(n for n in self.manifest.files if n.startswith(f"{PARITY_FOLDER}/"))
        return [self._parity_frame(name) for name in names[:MOST_PARITY_FRAMES]]

    def trust(self) -> TrustStatistics | None:
        """Return the statistics of the frames that the model can be trusted on, None where it has none.

        Raises BadBundleError for a file that is damaged or of another graph, UnsupportedVersionError for
        one of a newer version.
        """
        if TRUST not in self.manifest.files:
            return None
        from dedos_deploy.trust import trust_from_bytes

        content = self.read(TRUST)
        return trust_from_bytes(
            content, width=self.spec.pooled_width, name=f"{self._label}: file {TRUST!r}"
        )

    def close(self) -> None:
        """Remove what was unpacked to a temporary folder; a second call does nothing."""
        if self._remove is not None:
            self._remove()

    def __repr__(self) -> str:
        spec = self.spec
        return (
            f"Bundle({self.name!r}, preset={self.manifest.preset!r}, "
            f"target={self.manifest.target!r}, size={spec.height}x{spec.width})"
        )

    def _parity_frame(self, name: str) -> Picture:
        from dedos_deploy.picture_sizes import stated_pixels
        from dedos_deploy.pictures import coloured

        content = self.read(name)
        pixels = stated_pixels(content)
        # Before it is decoded: a picture of a few kB may take gigabytes, and WebP states no size.
        if pixels is not None and pixels > PARITY_FRAME_SIDE**2:
            raise self._no_parity_frame(name, f"a picture of {pixels} pixels")
        picture = coloured(content, name=f"file {name!r}") if pixels else None
        if picture is None:
            raise self._no_parity_frame(name, "no picture")
        if max(picture.shape[:2]) > PARITY_FRAME_SIDE:
            raise self._no_parity_frame(name, "{}x{}".format(*picture.shape[:2]))
        return picture

    def _no_parity_frame(self, name: str, found: str) -> BadBundleError:
        return BadBundleError(
            f"{self._label}: file {name!r} is {found}, but parity frames are pictures of up to "
            f"{PARITY_FRAME_SIDE}x{PARITY_FRAME_SIDE}; export the bundle again"
        )

    def _load_vocabulary(self, name: str) -> tuple[tuple[str, ...], NDArray[np.float32]]:
        from dedos_deploy.vocabulary_file import load_vocabulary

        file = vocabulary_file(name)
        content = self.read(file)
        try:
            words, embeddings = load_vocabulary(content)
        except (BadInputError, BadBundleError) as error:
            kind = UnsupportedVersionError if isinstance(error, UnsupportedVersionError) else None
            raise (kind or BadBundleError)(f"{self._label}: file {file!r}: {error}") from error
        if embeddings.shape[1] != self.spec.text_width:
            raise BadBundleError(
                f"{self._label}: file {file!r} has embeddings of {embeddings.shape[1]} values, "
                f"but field 'spec.text_width' is {self.spec.text_width}"
            )
        return words, embeddings


def _warn_if_open(folder: Path, manifest: Manifest, label: str) -> None:
    # Graphs are opened by their path after they were checked: only the folder's owner may be able
    # to change them in between.
    place = open_to_others(folder, [MANIFEST, *manifest.files])
    if place is not None:
        logger.warning(
            "%s: everybody on this machine may change %s, also after it was checked; "
            "run: chmod -R o-w %s",
            label,
            place,
            folder,
        )


def _label(name: str) -> str:
    return f"bundle {name!r}"


def _nothing_there(name: str) -> Exception:
    if name == DEMO_NAME:
        return BadBundleError(
            "this installation has no embedded demo bundle (assets/demo.dedos is missing); "
            "install dedos-deploy again"
        )
    return BadInputError(
        f"bundle {name!r} does not exist; give a bundle folder, a .dedos file, or the name "
        f"{DEMO_NAME!r} for the embedded one"
    )
