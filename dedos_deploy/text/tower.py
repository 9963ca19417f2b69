"""The text tower of a bundle: its files, and the tower while it runs."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dedos_deploy.borders import NO_RETRY, foreign, onnx_runtime_advice, spoken_reason
from dedos_deploy.errors import BadBundleError, EngineError
from dedos_deploy.files import read_regular
from dedos_deploy.text.tokenizer import Tokenizer
from dedos_deploy.threads import usable_threads

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

    from dedos_deploy.vocabulary_file import Rows

BATCH = 16
"""Prompts per run of the text tower: bounds its memory and how long others wait for their turn."""

MODEL = "text_encoder.onnx"
TOKENIZER = "tokenizer.json"

_MOST_BYTES = (1 << 31) - 1
"""What one ONNX file may have."""

Source = str | os.PathLike[str] | bytes


@dataclass(frozen=True)
class TowerFiles:
    """What turns prompts into embeddings, as a bundle has it."""

    model: Source = field(repr=False)
    """text_encoder.onnx, or its bytes, with the input `tokens`, int64 [N, L] or, where it says
    so, of fewer, and the output `embedding`, float32 [N, D]."""

    tokenizer: Source = field(repr=False)
    """tokenizer.json, or its bytes."""

    model_sha256: str
    tokenizer_sha256: str
    """What the hashes of both files must be, for they stand for the files in caches."""

    context_length: int
    """L, tokens in a row."""

    text_width: int
    """D, width of an embedding."""

    def open_tokenizer(self) -> Tokenizer:
        """Raises BadBundleError when it is unusable, or not the one it should be."""
        data = _verified(self.tokenizer, self.tokenizer_sha256, TOKENIZER)
        return Tokenizer(data, self.context_length)

    def open_tower(self, *, threads: int | None = None) -> TextTower:
        """Open the text tower; it takes memory as long as it lives. threads: None for all cores.

        Raises BadBundleError when it is unusable, or not the one it should be.
        """
        data = _verified(self.model, self.model_sha256, MODEL)
        return TextTower(_session(data, threads), self.text_width)


class TextTower:
    """An open text tower, for one thread at a time."""

    def __init__(self, session: InferenceSession, text_width: int) -> None:
        self._session = session
        self._width = text_width
        # A tower of an earlier export has one length of rows.
        shape = session.get_inputs()[0].shape
        self._takes_shorter = len(shape) == 2 and not isinstance(shape[1], int)

    def run(self, tokens: npt.NDArray[np.int64]) -> Rows:
        """Return the embeddings of N prompts, tokens int64 [N, L] -> float32 [N, D].

        Raises EngineError.
        """
        parts = [self._run(tokens[i : i + BATCH]) for i in range(0, len(tokens), BATCH)]
        return np.concatenate(parts)

    def _run(self, tokens: npt.NDArray[np.int64]) -> Rows:
        if self._takes_shorter:
            # The end of a prompt has the largest id, and nothing looks at what follows it. Prompts
            # fill an eighth of CLIP's 77 places.
            tokens = tokens[:, : tokens.argmax(1).max() + 1]
        with foreign(
            lambda why: EngineError(f"the text tower failed: {why}"), reason=spoken_reason
        ):
            (rows,) = self._session.run(["embedding"], {"tokens": tokens})
        expected = (len(tokens), self._width)
        if rows.dtype != np.float32 or rows.shape != expected:
            raise EngineError(
                f"the text tower gave {rows.dtype} {list(rows.shape)}, not float32 "
                f"{list(expected)}; export the bundle again"
            )
        result: Rows = rows
        return result


def _verified(source: Source, sha256: str, name: str) -> bytes:
    """Return the bytes that will be used, read once, so that nothing can change after the check."""
    if isinstance(source, bytes):
        data = source
    else:
        try:
            data = read_regular(source, limit=_MOST_BYTES)
        except OSError as error:
            raise BadBundleError(
                f"{name} cannot be read at {os.fspath(source)!r} ({error.strerror}); export the "
                "bundle again"
            ) from error
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise BadBundleError(
            f"{name} has the sha256 {found[:12]}…, the manifest promises {sha256[:12]}…; export or "
            "fetch the bundle again"
        )
    return data


def _session(data: bytes, threads: int | None) -> InferenceSession:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = usable_threads(threads)
    with foreign(
        lambda why: BadBundleError(f"{MODEL} cannot be loaded: {why}; {onnx_runtime_advice()}"),
        reason=spoken_reason,
    ):
        session = onnxruntime.InferenceSession(
            data, options, providers=["CPUExecutionProvider"], **NO_RETRY
        )
        # Names are decoded only now, and may be no text.
        inputs = [tensor.name[:80] for tensor in session.get_inputs()[:20]]
        outputs = [tensor.name[:80] for tensor in session.get_outputs()[:20]]
    if inputs != ["tokens"] or "embedding" not in outputs:
        raise BadBundleError(
            f"{MODEL} has inputs {inputs} and outputs {outputs}, not ['tokens'] and ['embedding']; "
            f"export the bundle again"
        )
    return session
