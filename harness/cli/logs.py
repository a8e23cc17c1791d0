"""Log format: key=value lines, or one JSON object per line with HARNESS_LOG=json."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from ast import literal_eval
from datetime import UTC, datetime
from typing import Any

from harness import names

_PAIR = re.compile(r"(\w+)=('(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|\S+)")


class Lines(logging.Formatter):
    """Plain log lines, with terminal control characters escaped and credentials removed."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record as one line, followed by its traceback if it has one."""
        return names.printable(super().format(record))


class JsonLines(logging.Formatter):
    """JSON objects: time, level, logger, message, and each key=value pair of the message (run, model, seconds ...)."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record as one JSON object."""
        message = names.printable(record.getMessage())
        line: dict[str, Any] = {key: _value(text) for key, text in _PAIR.findall(message)}
        line |= {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname, "logger": record.name, "message": message,
        }  # fmt: skip
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


def _value(text: str) -> Any:
    try:
        return literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def configure() -> None:
    """Log to stderr. HARNESS_LOG=json selects JSON lines, HARNESS_LOG=debug adds our debug messages."""
    handler, mode = logging.StreamHandler(sys.stderr), os.environ.get("HARNESS_LOG", "").lower()
    handler.setFormatter(JsonLines() if mode == "json" else Lines("%(levelname)s %(name)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    if mode == "debug":
        logging.getLogger("harness").setLevel(logging.DEBUG)
