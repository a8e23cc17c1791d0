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

_PAIR = re.compile(r"(\w+)=('(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|\S+)")


class JsonLines(logging.Formatter):
    """time, level, logger and message, and what stands in the message as key=value: run, model, dataset, seconds ..."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        message = record.getMessage()
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
    """Log to stderr, as HARNESS_LOG asks."""
    handler = logging.StreamHandler(sys.stderr)
    as_json = os.environ.get("HARNESS_LOG", "").lower() == "json"
    handler.setFormatter(JsonLines() if as_json else logging.Formatter("%(levelname)s %(name)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
