"""`harness track` and `harness run --track`: send a run to an experiment tracker."""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
from collections.abc import Iterable
from typing import Any

from harness.cli.printing import answer
from harness.names import printable
from harness.tracking import trackers

logger = logging.getLogger(__name__)


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the options of `track`."""
    command.add_argument("out", metavar="OUT", help="folder or URL with the tables of a run")
    command.add_argument("tracker", choices=trackers.TRACKERS, help="where to send it")
    command.add_argument("--run", help="run id (default: the newest run)")


def add_tracking(command: argparse.ArgumentParser) -> None:
    """Add the option of `run`."""
    command.add_argument(
        "--track", action="append", choices=trackers.TRACKERS, default=[],
        help="send scores, figures and tables to an experiment tracker at the end; repeatable",
    )  # fmt: skip


def track(arguments: argparse.Namespace) -> int:
    """Send a finished run; exit status 1 if the tracker does not take it."""
    from harness.storage import tables

    trackers.require_installed([arguments.tracker])
    run = str(tables.pick_run(arguments.out, arguments.run)["run"])
    (sent,) = send(arguments.out, run, [arguments.tracker])
    answer(arguments, sent, in_words(sent))
    return int(bool(sent["error"]))


def send(out: str, run: str | None, names: Iterable[str]) -> list[dict[str, Any]]:
    """Send a run to trackers; a tracker's error is returned, since the results are stored."""
    return [{"tracker": name, **_send(out, run, name)} for name in names]


def _send(out: str, run: str | None, name: str) -> dict[str, str]:
    try:
        with contextlib.redirect_stdout(sys.stderr):  # where the trackers' messages do not mix with a JSON document
            return {"where": printable(trackers.send(out, run, name)), "error": ""}
    except Exception as error:  # a tracker may fail in any way
        logger.debug("traceback of the tracker's error", exc_info=True)
        first = next(iter(str(error).strip().splitlines()), "")
        return {"where": "", "error": printable(f"{type(error).__name__}: {first}")}


def in_words(sent: dict[str, Any]) -> str:
    """What became of a send."""
    if sent["error"]:
        return f"{sent['tracker']} did not take the run ({sent['error']}); the results are stored: use `harness track`."
    return f"sent to {sent['tracker']}: {sent['where']}"
