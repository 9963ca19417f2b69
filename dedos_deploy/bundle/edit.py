"""Changes to a finished bundle that leave its graphs alone."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from dedos_deploy.bundle._names import MANIFEST, MODEL, curves_file, is_curves_file
from dedos_deploy.bundle.bundle import DEMO_NAME, Bundle
from dedos_deploy.bundle.manifest import Manifest
from dedos_deploy.bundle.writer import BundleWriter
from dedos_deploy.confidence_curves import ConfidenceCurves
from dedos_deploy.errors import BadInputError, SinkError
from dedos_deploy.files import write_atomically


def set_thresholds(
    path: str | os.PathLike[str],
    thresholds: Mapping[str, float],
    *,
    dest: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
) -> Path:
    """Give a bundle score thresholds per class name, beside those of other classes, and return it.

    thresholds: in [0, 1]; dest: where the changed bundle goes, None to change the one in `path`.
    A folder that is changed in place keeps its built engines: only its manifest is replaced.

    Raises BadInputError for the embedded bundle without `dest` and for a place that is taken,
    SinkError when it cannot be written, BadBundleError for a bundle or threshold that cannot be.
    """
    check_changeable(path, dest, overwrite=overwrite)
    with Bundle.open(path) as bundle:
        manifest = replace(bundle.manifest, thresholds={**bundle.manifest.thresholds, **thresholds})
        if dest is None and Path(path).is_dir():
            return _rewrite(Path(path), manifest)
        return _copy(bundle, manifest, dest or path, overwrite=overwrite or dest is None)


def set_confidence_curves(
    path: str | os.PathLike[str],
    curves: ConfidenceCurves,
    *,
    dest: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
) -> Path:
    """Give a bundle confidence curves, in place of those that it has, and return it.

    dest, overwrite and what is raised: as `set_thresholds` has them; BadBundleError, too, for curves of
    another graph. Whatever happens meanwhile, a folder that is changed in place is the old bundle or the
    new one, at worst beside a file that its manifest does not list.
    """
    check_changeable(path, dest, overwrite=overwrite)
    content = curves.to_json().encode()
    digest = hashlib.sha256(content).hexdigest()
    with Bundle.open(path) as bundle:
        curves.check_graph(bundle.manifest.files[MODEL], where="the confidence curves")
        name = curves_file(digest)
        old = {one for one in bundle.manifest.files if is_curves_file(one)}
        if dest is None and Path(path).is_dir():
            kept = {one: its for one, its in bundle.manifest.files.items() if one not in old}
            manifest = replace(bundle.manifest, files={**kept, name: digest})
            return _rewrite(Path(path), manifest, added={name: content}, removed=old - {name})
        with BundleWriter(dest or path, overwrite=overwrite or dest is None) as writer:
            writer.add_all(bundle, without=old)
            writer.add_bytes(name, content)
            return writer.commit(bundle.manifest)


def check_changeable(
    path: str | os.PathLike[str], dest: str | os.PathLike[str] | None, *, overwrite: bool
) -> None:
    """Raise BadInputError unless a changed bundle of `path` can go where `set_thresholds` puts it.

    What takes long to compute is computed after this.
    """
    if dest is not None:
        BundleWriter(dest, overwrite=overwrite)
    elif os.fspath(path) == DEMO_NAME:
        raise BadInputError(
            "the embedded bundle cannot be changed; write the changed one elsewhere with --output"
        )


def _rewrite(
    folder: Path,
    manifest: Manifest,
    *,
    added: Mapping[str, bytes] = MappingProxyType({}),
    removed: Collection[str] = (),
) -> Path:
    """Replace the manifest of a bundle's folder, after files that it alone lists, before others go."""
    text = manifest.to_json()
    try:
        for name, content in added.items():
            write_atomically(folder / name, content)
        write_atomically(folder / MANIFEST, text.encode())
    except OSError as error:
        raise SinkError(
            f"bundle {str(folder)!r} cannot be written ({error.strerror}); it is as it was"
        ) from error
    for name in removed:
        try:
            (folder / name).unlink()
        except OSError as error:
            raise SinkError(
                f"bundle {str(folder)!r} is written, but {name!r}, which it no longer lists, cannot be "
                f"removed ({error.strerror}); remove it"
            ) from error
    return folder


def _copy(
    bundle: Bundle, manifest: Manifest, dest: str | os.PathLike[str], *, overwrite: bool
) -> Path:
    with BundleWriter(dest, overwrite=overwrite) as writer:
        writer.add_all(bundle)
        return writer.commit(manifest)
