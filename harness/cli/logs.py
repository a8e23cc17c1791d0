"""The lines that the program logs: key=value for people, or, with HARNESS_LOG=json, one JSON object a line."""

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
    """Lines for people, without what a terminal would obey, and without credentials."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, or a traceback after it."""
        return names.printable(super().format(record))


class JsonLines(logging.Formatter):
    """time, level, logger and message, and what stands in the message as key=value: run, model, dataset, seconds ..."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        message = names.printable(record.getMessage())
        line: dict[str, Any] = {key: _value(said) for key, said in _PAIR.findall(message)}
        line |= {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname, "logger": record.name, "message": message,
        }  # fmt: skip
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


def _value(said: str) -> Any:
    try:
        return literal_eval(said)
    except (ValueError, SyntaxError):
        return said


def configure() -> None:
    """Log to stderr, as HARNESS_LOG asks: json, or debug for more of our own lines."""
    handler, asked = logging.StreamHandler(sys.stderr), os.environ.get("HARNESS_LOG", "").lower()
    handler.setFormatter(JsonLines() if asked == "json" else Lines("%(levelname)s %(name)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    if asked == "debug":
        logging.getLogger("harness").setLevel(logging.DEBUG)
