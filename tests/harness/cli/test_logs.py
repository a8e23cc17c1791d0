"""Tests of JSON log lines: each key=value pair becomes a field."""

import json
import logging
import sys

from harness.cli.logs import JsonLines


def as_line(message, *arguments, exc_info=None):
    record = logging.LogRecord("harness.runs.progress", logging.INFO, __file__, 1, message, arguments, exc_info)
    return json.loads(JsonLines().format(record))


def test_pairs_become_fields_and_numbers_stay_numbers():
    line = as_line("run=%s model=%s dataset=%s did=%r seconds=%.1f", "real-1", "m:untrained", "d", "scored it's", 1.25)
    assert {key: line[key] for key in ("run", "model", "dataset", "did", "seconds")} == {
        "run": "real-1", "model": "m:untrained", "dataset": "d", "did": "scored it's", "seconds": 1.2,
    }  # fmt: skip
    assert (line["level"], line["logger"]) == ("INFO", "harness.runs.progress")
    assert line["time"].endswith("+00:00")


def test_messages_without_pairs_or_with_a_traceback_are_one_line():
    assert as_line("the filesystem fails")["message"] == "the filesystem fails"
    try:
        raise OSError("full")
    except OSError:
        line = as_line("model=%s", "time=never", exc_info=sys.exc_info())
    assert "OSError: full" in line["traceback"]
    assert line["time"] != "never"
