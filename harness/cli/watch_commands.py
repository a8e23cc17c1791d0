"""The body of `harness watch`: new checkpoints are evaluated, once or again and again, and somebody is told."""

from __future__ import annotations

import argparse
import contextlib
import logging
import re
import sys
import time
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.cli.printing import document

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.runs.stopping import Stop
    from harness.watching.watch import CheckpointWatcher, Event, WatchPass

logger = logging.getLogger(__name__)

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
FIRST_PAUSE_S = 30.0  # after a pass that failed; twice as long after each further one, up to --every


def add_options(watch: argparse.ArgumentParser) -> None:
    """The options of `watch` beside those of `run`."""
    when = watch.add_mutually_exclusive_group()
    when.add_argument("--once", action="store_true", help="one pass, for cron or a RayCronJob (default)")
    when.add_argument("--every", metavar="TIME", help="a pass each 30m, 1h, 1d, until it is stopped")
    watch.add_argument("--tries", type=int, default=3, metavar="N", help="then a checkpoint is parked (default: 3)")
    watch.add_argument("--marker", default="", metavar="NAME", help="file that is written last into a checkpoint")
    watch.add_argument(
        "--quiet", default="60s", metavar="TIME", help="without a marker: unchanged for so long is complete (60s)"
    )
    watch.add_argument("--cache", metavar="DIR", help="for checkpoints of a bucket (default: OUT/checkpoints)")
    watch.add_argument("--on-result", metavar="COMMAND|URL", help="is given each new score, as JSON")
    watch.add_argument("--on-drop", metavar="COMMAND|URL", help="is given each score below that of the step before")
    watch.add_argument("--drop", type=float, default=0.05, metavar="R", help="what counts as one (default: .05)")
    watch.add_argument("--on-parked", metavar="COMMAND|URL", help="is given each checkpoint that is given up")
    watch.add_argument("--list", action="store_true", dest="only_list", help="say what is there; evaluate nothing")


def watch(arguments: argparse.Namespace) -> int:
    """Evaluate the checkpoints of a source that are new; 1 where one failed, 2 where the source cannot be looked at."""
    made = _watch(arguments)
    if arguments.only_list:
        return _list(made, arguments)
    if not arguments.every:
        this = made.once()
        _tell(this, arguments)
        return int(bool(this.failed or this.parked or this.was_stopped))
    from harness.runs import stopping

    with stopping.signals() as stop:
        _again_and_again(made, seconds(arguments.every), arguments, stop)
    return 0


def seconds(said: str) -> float:
    """A time such as 90s, 30m, 1h or 2d, in seconds.

    Raises:
        ValueError: if it is none.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", said)
    if not found or (float(found[1]) <= 0 and said[0] != "0"):
        raise ValueError(f"{said!r} is no time; give such as 90s, 30m, 1h or 1d.")
    return float(found[1]) * _UNITS[found[2]]


def _watch(arguments: argparse.Namespace) -> CheckpointWatcher:
    from harness.cli import run_commands
    from harness.watching.watch import CheckpointWatcher

    if arguments.tries < 1:
        raise ValueError("--tries must be 1 or more.")
    spec = run_commands.spec_of(argparse.Namespace(**{**vars(arguments), "model": arguments.model or ["none"]}))
    spec = replace(spec, models=tuple(arguments.model or ()))
    source = arguments.source
    if Path(source).exists():
        source = str(Path(source).absolute())
    cache = arguments.cache or str(Path("." if "://" in arguments.out else arguments.out).absolute() / "checkpoints")
    return CheckpointWatcher(
        source, spec, arguments.out, partial(_evaluate, arguments), arguments.tries, seconds(arguments.quiet),
        arguments.marker, cache, arguments.drop, arguments.allow_pickle, _hooked(arguments),
    )  # fmt: skip


def _hooked(arguments: argparse.Namespace) -> Callable[[Event], None]:
    """What calls the hooks that are asked for; ValueError where one cannot work."""
    from harness.watching import hooks

    listed = {"result": arguments.on_result, "drop": arguments.on_drop, "parked": arguments.on_parked}
    for name, hook in listed.items():
        if hook:
            hooks.require_usable(hook, f"--on-{name}")

    def tell(event: Event) -> None:
        if hook := listed[event.event]:
            hooks.call(hook, asdict(event) | {"text": event.text})

    return tell


def _evaluate(arguments: argparse.Namespace, spec: Any) -> Any:
    from rich.console import Console

    from harness.report import page
    from harness.runs import pipeline
    from harness.runs.progress import Display

    with Display(Console(file=sys.stderr)) as display, contextlib.redirect_stdout(sys.stderr):
        outcome = pipeline.run(
            spec, arguments.out, arguments.data_root, address=arguments.address, device=arguments.device,
            pinned=not arguments.unpinned, allow_pickle=arguments.allow_pickle,
            usd_per_gpu_hour=arguments.usd_per_gpu_hour, listener=display, keep_going=True,
        )  # fmt: skip
    page.write(arguments.out, outcome.run)
    return outcome


def _again_and_again(made: CheckpointWatcher, every_s: float, arguments: argparse.Namespace, stop: Stop) -> None:
    from harness.runs import ray_session

    pause_s = FIRST_PAUSE_S
    while not stop.is_asked:
        try:
            this = made.once()
        except Exception as error:
            wait_s = min(pause_s, every_s)
            is_ours = not isinstance(error, OSError | ValueError)  # a fault of the program, whose place should be known
            said = f"{type(error).__name__}: {error}"
            logger.warning("watch=%s failed (%s); again in %g s", made.source, said, wait_s, exc_info=is_ours)
            pause_s *= 2
            ray_session.leave()
        else:
            _tell(this, arguments)
            wait_s, pause_s = every_s, FIRST_PAUSE_S
            if this.was_stopped:
                return
        until = time.monotonic() + wait_s
        while time.monotonic() < until and not stop.is_asked:
            time.sleep(min(1.0, wait_s))


def _tell(this: WatchPass, arguments: argparse.Namespace) -> None:
    """Print what came of a pass."""
    if arguments.json:
        document(asdict(this))
        return
    for event in this.events:
        print(f"{event.event}: {event.text}")
    for row in this.failed:
        print(f"failed {row['model']} (attempt {row['attempt']} of {arguments.tries}): {row['reason']}")
    for one in this.waiting:
        print(f"waits {one.where}: for {one.waits_for}")
    print(
        f"{this.seen} checkpoints: {this.done} were done, {len(this.evaluated)} evaluated, {len(this.failed)} failed, "
        f"{len(this.parked)} parked, {len(this.waiting)} not complete"
    )
    if this.run:
        print(f"open the report: {arguments.out.rstrip('/')}/report.html")
    sys.stdout.flush()


def _list(made: CheckpointWatcher, arguments: argparse.Namespace) -> int:
    rows = made.listed()
    if arguments.json:
        document(rows)
    else:
        for row in rows:
            print(f"{row['state']:<10} {row['where']}" + (f": {row['reason']}" if row["reason"] else ""))
        print(f"{len(rows)} checkpoints")
    return 0
