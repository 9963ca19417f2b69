"""The border to TensorRT: whatever way a call is refused in, it is one error of ours.

The bindings have four ways. Some calls return False, some None; some raise RuntimeError where the C++
function returned false (`set_optimization_profile_async`, `infer_shapes`, `set_shape`); constructors
raise TypeError where the library gave nothing, as it does without a driver. Of the cause each tells
the logger only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, TypeVar

from dedos_deploy.borders import Refusal, first_line, foreign
from dedos_deploy.runtime.gpu.flavours import Flavour

Answer = TypeVar("Answer")


class Library:
    """One of the two flavours as it is installed, and what it says when it refuses a call."""

    def __init__(self, trt: ModuleType, flavour: Flavour) -> None:
        self.trt = trt
        self.name = f"{label(flavour)} {trt.__version__}"
        """Such as TensorRT 10.3.0."""
        self._messages: list[str] = []
        self.logger = new_logger(trt, self._messages)

    def ask(self, refusal: Refusal, call: Callable[..., Answer], *arguments: Any) -> Answer:
        """Return what `call` answers; raise the error that `refusal` makes for what it raises."""
        self._messages.clear()
        with foreign(refusal, reason=self._words):
            return call(*arguments)

    def must(self, refusal: Refusal, call: Callable[..., Answer | None], *arguments: Any) -> Answer:
        """Return what `call` answers, as `ask`; False and None are refusals, too."""
        answer = self.ask(refusal, call, *arguments)
        if answer is None or answer is False:
            raise refusal(self.words)
        return answer

    @property
    def words(self) -> str:
        """What it said of the last call."""
        return reason(self._messages)

    def _words(self, error: BaseException) -> str:
        return self.words if self._messages else first_line(error)


def label(flavour: Flavour) -> str:
    """Return the name that people use."""
    return "TensorRT for RTX" if flavour.portable else "TensorRT"


def new_logger(trt: ModuleType, messages: list[str]) -> Any:
    """Return a logger that appends the library's errors to `messages` and prints nothing."""

    class Logger(trt.ILogger):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.ERROR:
                messages.append(" ".join(message.split()))

    return Logger()


def reason(messages: Sequence[str]) -> str:
    """Return the last words of the library."""
    return "; ".join(messages[-3:]) or "it gave no reason"
