"""Log lines on stderr: sentences for people, or one JSON object a line for whoever collects them."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Any, TextIO

OURS = "dedos_deploy"
_USUAL = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonLines(logging.Formatter):
    """Keys: time (UTC), level, logger, message, and what the record has beyond the usual, such as
    camera, state, output, stage, frame, stack; `error` has the traceback of a logged exception."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, timezone.utc)
        line: dict[str, Any] = {
            "time": at.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: value for name, value in vars(record).items() if name not in _USUAL}
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class Sentences(logging.Formatter):
    """`dedos-run: warning: ...`; clears a status line that may stand where it is written."""

    def __init__(self, prog: str, stream: TextIO) -> None:
        super().__init__()
        self._prog = prog
        self._start = "\r\x1b[K" if stream.isatty() else ""

    def format(self, record: logging.LogRecord) -> str:
        kind = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        text = f"{self._start}{self._prog}: {kind}{record.getMessage()}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


@contextmanager
def logging_to_stderr(prog: str, form: str, *, quiet: bool) -> Iterator[None]:
    """Write this package's records to stderr inside the block.

    form: `text` or `json`; quiet: warnings and errors only.
    """
    logger = logging.getLogger(OURS)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if form == "json" else Sentences(prog, sys.stderr))
    before, passed_on = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING if quiet else logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
        logger.propagate = passed_on
