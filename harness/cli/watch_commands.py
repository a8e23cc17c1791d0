"""`harness watch`: evaluate new checkpoints, in one pass or repeatedly, and call hooks with the results."""

from __future__ import annotations

import argparse
import logging
import re
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from harness.cli.printing import answer

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.runs.outcome import Outcome
    from harness.runs.stopping import Stop
    from harness.spec import EvaluationSpec
    from harness.watching.watch import CheckpointWatcher, Event, WatchPass

logger = logging.getLogger(__name__)

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
FIRST_PAUSE_S = 30.0  # wait after a failed pass; doubles with each further failure, up to --every


def add_options(watch: argparse.ArgumentParser) -> None:
    """Add the options of `watch` that `run` does not have."""
    when = watch.add_mutually_exclusive_group()
    when.add_argument("--once", action="store_true", help="one pass, for cron or a RayCronJob (default)")
    when.add_argument("--every", metavar="TIME", help="repeat at this interval, such as 30m, 1h or 1d, until stopped")
    option = watch.add_argument
    option(
        "--tries", type=int, default=3, metavar="N", help="attempts before a failing checkpoint is parked (default: 3)"
    )
    option("--marker", default="", metavar="NAME", help="file that marks a checkpoint as complete")
    option(
        "--quiet", default="60s", metavar="TIME",
        help="without a marker: time that files must be unchanged (default: 60s)",
    )  # fmt: skip
    option("--cache", metavar="DIR", help="folder for checkpoints from a bucket (default: OUT/checkpoints)")
    option("--on-result", metavar="COMMAND|URL", help="hook that gets each new score as JSON")
    option("--on-drop", metavar="COMMAND|URL", help="hook for scores below the previous step's")
    option("--drop", type=float, default=0.05, metavar="R", help="decrease that counts as a drop (default: 0.05)")
    option("--on-parked", metavar="COMMAND|URL", help="hook for each checkpoint that is parked")
    option("--list", action="store_true", dest="only_list", help="list the checkpoints; evaluate nothing")


def watch(arguments: argparse.Namespace) -> int:
    """Evaluate the new checkpoints of a source; exit status 1 if one failed, 2 if the source cannot be read."""
    watcher = _watcher(arguments)
    if arguments.only_list:
        return _list(watcher, arguments)
    if not arguments.every:
        result = watcher.once()
        _print(result, arguments)
        return int(bool(result.failed or result.parked or result.was_stopped))
    from harness.runs import stopping

    with stopping.signals() as stop:
        _repeat(watcher, seconds(arguments.every), arguments, stop)
    return 0


def seconds(text: str) -> float:
    """Convert a duration such as 90s, 30m, 1h or 2d to seconds.

    Args:
        text: a number followed by s, m, h or d.

    Raises:
        ValueError: if the text has another form.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    if not match or (float(match[1]) <= 0 and text[0] != "0"):
        raise ValueError(f"{text!r} is not a duration; give one such as 90s, 30m, 1h or 1d.")
    return float(match[1]) * _UNITS[match[2]]


def _watcher(arguments: argparse.Namespace) -> CheckpointWatcher:
    from harness.cli import run_commands
    from harness.watching.watch import CheckpointWatcher

    if arguments.tries < 1:
        raise ValueError(f"--tries must be 1 or more, not {arguments.tries}.")
    spec = run_commands.spec_of(argparse.Namespace(**{**vars(arguments), "model": arguments.model or ["none"]}))
    spec = replace(spec, models=tuple(arguments.model or ()))
    source = arguments.source
    if Path(source).exists():
        source = str(Path(source).absolute())
    cache = arguments.cache or str(Path("." if "://" in arguments.out else arguments.out).absolute() / "checkpoints")

    def evaluate(spec: EvaluationSpec) -> Outcome:
        return run_commands.evaluate(arguments, spec, sys.stderr, keep_going=True)[0]

    return CheckpointWatcher(
        source, spec, arguments.out, evaluate, arguments.tries, seconds(arguments.quiet),
        arguments.marker, cache, arguments.drop, arguments.allow_pickle, _call_hook(arguments),
    )  # fmt: skip


def _call_hook(arguments: argparse.Namespace) -> Callable[[Event], None]:
    """A function that calls the hook for an event; ValueError if a hook cannot work."""
    from harness.watching import hooks

    hook_of = {"result": arguments.on_result, "drop": arguments.on_drop, "parked": arguments.on_parked}
    for name, hook in hook_of.items():
        if hook:
            hooks.require_usable(hook, f"--on-{name}")

    def call(event: Event) -> None:
        if hook := hook_of[event.event]:
            hooks.call(hook, asdict(event) | {"text": event.text})

    return call


def _repeat(watcher: CheckpointWatcher, every_s: float, arguments: argparse.Namespace, stop: Stop) -> None:
    from harness.runs import ray_session

    pause_s = FIRST_PAUSE_S
    while not stop.is_asked:
        try:
            result = watcher.once()
        except Exception as error:
            wait_s = min(pause_s, every_s)
            is_bug = not isinstance(error, OSError | ValueError)  # then log the traceback
            message = f"{type(error).__name__}: {error}"
            logger.warning("watch=%s failed (%s); retry in %g s", watcher.source, message, wait_s, exc_info=is_bug)
            pause_s *= 2
            ray_session.leave()
        else:
            _print(result, arguments)
            wait_s, pause_s = every_s, FIRST_PAUSE_S
            if result.was_stopped:
                return
        deadline = time.monotonic() + wait_s
        while time.monotonic() < deadline and not stop.is_asked:
            time.sleep(min(1.0, wait_s))


def _print(result: WatchPass, arguments: argparse.Namespace) -> None:
    """Print the result of a pass."""
    lines = [f"{event.event}: {event.text}" for event in result.events]
    lines += [
        f"failed {row['model']} (attempt {row['attempt']} of {arguments.tries}): {row['reason']}"
        for row in result.failed
    ]
    lines += [f"incomplete {checkpoint.where}: waiting for {checkpoint.waits_for}" for checkpoint in result.waiting]
    lines.append(
        f"{result.seen} checkpoints: {result.done} already done, {len(result.evaluated)} evaluated, "
        f"{len(result.failed)} failed, {len(result.parked)} parked, {len(result.waiting)} incomplete"
    )
    lines += [f"open the report: {arguments.out.rstrip('/')}/report.html"] if result.run else []
    answer(arguments, asdict(result), "\n".join(lines))
    sys.stdout.flush()


def _list(watcher: CheckpointWatcher, arguments: argparse.Namespace) -> int:
    rows = watcher.listed()
    lines = [f"{row['state']:<10} {row['where']}" + (f": {row['reason']}" if row["reason"] else "") for row in rows]
    answer(arguments, rows, "\n".join([*lines, f"{len(rows)} checkpoints"]))
    return 0
