"""A bundle as a model of Triton Inference Server: the folder of the model, whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path

from dedos_deploy.bundle import Bundle, BundleWriter
from dedos_deploy.class_files import class_content
from dedos_deploy.errors import BadInputError, SinkError
from dedos_deploy.export.triton_options import TritonOptions
from dedos_deploy.files import replacing_folder, sync, sync_tree
from dedos_deploy.runtime.gpu.engine_store import check_readable
from dedos_deploy.spec import TYPED_TARGETS
from dedos_deploy.triton_model import (
    BACKGROUND,
    BUNDLE,
    CLASSES_FILE,
    ENGINE,
    INPUTS,
    OUTPUTS,
    WORDS_FILE,
    TritonTensor,
)
from dedos_deploy.vocabulary import Entry, Vocabulary, typed_vocabulary, vocabulary_from_file

CONFIG = "config.pbtxt"
_VERSION = "1"
_MODEL = '''\
"""A bundle of dedos-deploy; what it does is in that package, which Triton's Python must have."""

from dedos_deploy.runtime.serving.triton import TritonPythonModel

__all__ = ["TritonPythonModel"]
'''


def write_triton_model(bundle: Bundle, options: TritonOptions, *, overwrite: bool = False) -> Path:
    """Write the model of an open bundle into a model repository and return the model's folder.

    overwrite: replace a model of that name. Raises BadInputError for a place that is taken and for
    words or an engine that do not fit the bundle, SinkError when it cannot be written.
    """
    if options.engine in TYPED_TARGETS:
        check_readable(bundle, options.engine)
    words = _words(bundle, options)
    dest = model_folder(bundle.name, options, overwrite=overwrite)
    try:
        with replacing_folder(dest, beside=_unserved(dest)) as staging:
            _fill(staging, bundle, options, words)
            sync_tree(staging)
            dest.parent.mkdir(exist_ok=True)
        sync(dest.parent)
    except OSError as error:
        raise SinkError(
            f"model {str(dest)!r} cannot be written ({error.strerror}); nothing was left behind, choose "
            "another place or make room"
        ) from error
    return dest


def model_folder(bundle: str, options: TritonOptions, *, overwrite: bool) -> Path:
    """Return where the model of a bundle goes. bundle: a name as `Bundle.open` takes it.

    Raises BadInputError when it cannot go there.
    """
    dest = Path(options.repository).resolve() / options.name_for(bundle)
    if not dest.parent.parent.is_dir():
        raise BadInputError(f"folder {str(dest.parent.parent)!r} does not exist; create it first")
    if dest.parent.exists() and not dest.parent.is_dir():
        raise BadInputError(f"{str(dest.parent)!r} is a file; give a folder for models")
    if (dest.parent / CONFIG).exists():
        raise BadInputError(
            f"{str(dest.parent)!r} is a model, whose folder is {str(dest.parent.parent)!r}; give that one"
        )
    if dest.exists() and not overwrite:
        raise BadInputError(
            f"{str(dest)!r} already exists; use --overwrite to replace it, or another --triton-name"
        )
    if dest.exists() and not (dest / CONFIG).is_file():
        raise BadInputError(f"{str(dest)!r} is not a model, so it is not replaced; move it away")
    return dest


def _unserved(dest: Path) -> Path:
    """Return the path beside which a model is made.

    Triton takes every folder of a repository for a model, hidden ones, too, and does not start where
    one cannot be loaded: so beside the repository, unless that is a file system of its own or nothing
    may be written there.
    """
    repository, above = dest.parent, dest.parent.parent
    if not os.access(above, os.W_OK | os.X_OK):
        return dest
    if repository.exists() and repository.stat().st_dev != above.stat().st_dev:
        return dest
    return above / dest.name


def _fill(folder: Path, bundle: Bundle, options: TritonOptions, words: tuple[str, bytes]) -> None:
    version = folder / _VERSION
    version.mkdir(parents=True)
    (folder / CONFIG).write_text(_config(options), encoding="utf-8")
    (version / "model.py").write_text(_MODEL, encoding="utf-8")
    name, content = words
    (version / name).write_bytes(content)
    vocabulary_from_file(version / name)  # as the server will read it
    with BundleWriter(version / BUNDLE) as writer:
        writer.add_all(bundle)
        writer.commit(bundle.manifest)


def _words(bundle: Bundle, options: TritonOptions) -> tuple[str, bytes]:
    """Return name and content of the file with the words of requests that bring none."""
    if options.classes is None and not bundle.base_words:
        raise BadInputError(
            f"bundle {bundle.name!r} has no base vocabulary for requests that bring no words; give some "
            "with --triton-classes"
        )
    if options.classes is None:
        vocabulary = Vocabulary(tuple(map(Entry, bundle.base_words)))
    else:
        vocabulary = typed_vocabulary(options.classes)
    if vocabulary.tuned is not None:
        vocabulary.tuned.check_model(bundle.manifest.checkpoint_sha256, bundle.spec.text_width)
        return WORDS_FILE, class_content(vocabulary.tuned.file)
    lines = "".join(f"{entry.spelled}\n" for entry in vocabulary.entries)
    return CLASSES_FILE, lines.encode()


def _config(options: TritonOptions) -> str:
    """Return `config.pbtxt`, in protobuf's text format."""
    parts = ['backend: "python"', "max_batch_size: 0"]
    parts += [_tensor("input", one, "\n  optional: true") for one in INPUTS]
    parts += [_tensor("output", one, "") for one in OUTPUTS]
    kind = "KIND_CPU" if options.on_cpu else "KIND_GPU"
    gpus = f"\n  gpus: {list(options.gpus)}" if options.gpus else ""
    parts.append(f"instance_group {{\n  kind: {kind}\n  count: {options.instances}{gpus}\n}}")
    for key, value in ((ENGINE, options.engine), (BACKGROUND, options.background)):
        parts.append(f'parameters {{\n  key: "{key}"\n  value {{ string_value: "{value}" }}\n}}')
    return "\n".join(parts) + "\n"


def _tensor(kind: str, tensor: TritonTensor, more: str) -> str:
    dims = json.dumps(tensor.dims)
    lines = f'\n  name: "{tensor.name}"\n  data_type: TYPE_{tensor.kind}\n  dims: {dims}{more}\n'
    return f"{kind} {{{lines}}}"
