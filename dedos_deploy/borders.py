"""The border to libraries that read foreign bytes: what they raise becomes one sentence of ours.

Parsers and decoders raise whatever lies deepest in them when a file is damaged or hostile: errors of
their own, of the standard library, of the memory, and panics. Nobody can list them all, so at the
border, and only there, everything counts as the file's fault.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar, cast

from dedos_deploy.errors import DedosError

_LOG = logging.getLogger(__name__)
_END = object()
_REASON_LENGTH = 200
# Where in ONNX Runtime's sources a message comes from: a file, a line and a C++ signature.
_CPP_PLACE = re.compile(r"(?<![^\s:])/\S*onnxruntime\S*\.(?:cc|h):\d+ [^)]*\)")

OLDEST_ONNX_RUNTIME = (1, 20)
"""The oldest that reads what is exported here: IR version 10, ArgMax of opset 13 for whole numbers."""

NO_RETRY = {"enable_fallback": 0}
"""For onnxruntime.InferenceSession, which otherwise prints an error to stdout and tries the same again."""

Refusal = Callable[[str], DedosError]
"""From the reason, in a few words, to the error for the user."""

Item = TypeVar("Item")


@contextmanager
def foreign(
    refusal: Refusal, *, reason: Callable[[BaseException], str] | None = None
) -> Iterator[None]:
    """Turn what one call of another library raises into the error that `refusal` makes.

    reason: words for the original, `plain_reason` if None. Keep the block to the call itself: a
    mistake of ours inside it would look like a damaged file. The original is logged with its
    traceback at DEBUG level and is the cause of the new error. Our own errors, KeyboardInterrupt and
    SystemExit pass.

    >>> import json
    >>> from dedos_deploy.errors import BadInputError
    >>> with foreign(lambda why: BadInputError(f"'a.json' is damaged ({why}); make it again")):
    ...     json.loads("{")
    Traceback (most recent call last):
    dedos_deploy.errors.BadInputError: 'a.json' is damaged (JSONDecodeError); make it again
    """
    try:
        yield
    except DedosError:
        raise
    except BaseException as error:
        # A size field that asks for more memory than there is is the file's fault, too.
        if not (isinstance(error, Exception) or is_panic(error)):
            raise
        refused = refusal((reason or plain_reason)(error))
        _LOG.debug("%s", refused, exc_info=error)
        raise refused from error


def foreign_items(items: Iterable[Item], refusal: Refusal) -> Iterator[Item]:
    """Yield what another library yields, `foreign` around each step of it."""
    with foreign(refusal):
        steps = iter(items)
    while True:
        with foreign(refusal):
            item = next(steps, _END)
        if item is _END:
            return
        yield cast(Item, item)


def plain_reason(error: BaseException) -> str:
    """Return why in a few words, without a word of what was read: messages of parsers quote it.

    >>> plain_reason(KeyError("secret")), plain_reason(FileNotFoundError(2, "No such file"))
    ('KeyError', 'No such file')
    """
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return type(error).__name__


def first_line(error: BaseException) -> str:
    """Return the first line of a message, for libraries that say in it what is missing where."""
    lines = str(error).strip().splitlines()
    return _printable(lines[0].rstrip(". ")) if lines else type(error).__name__


def spoken_reason(error: BaseException) -> str:
    """Return the informative end of an ONNX Runtime message, on one line of printable letters.

    It names operators and tensors of the graph, without which nobody could mend an export.
    """
    text = " ".join(str(error).split()).rsplit(" : ", 1)[-1].rstrip(".;")
    return _printable(" ".join(_CPP_PLACE.sub("", text).split())) or type(error).__name__


def onnx_runtime_advice() -> str:
    """Return what to do about a graph that ONNX Runtime does not load, with the version it takes."""
    import onnxruntime

    version = onnxruntime.__version__
    if tuple(map(int, re.findall(r"\d+", version)[:2])) < OLDEST_ONNX_RUNTIME:
        needed = ".".join(map(str, OLDEST_ONNX_RUNTIME))
        return (
            f"onnxruntime {version} is installed and {needed} or newer is needed; "
            f"run: pip install 'onnxruntime>={needed}'"
        )
    return f"the file is damaged, or made for a newer onnxruntime than {version}"


def _printable(text: str) -> str:
    return "".join(one if one.isprintable() else "?" for one in text[:_REASON_LENGTH])


def is_panic(error: BaseException) -> bool:
    """Return whether a library in Rust gave up: they end in a panic where they did not foresee something; it is no Exception."""
    return type(error).__name__ == "PanicException"
