"""`harness board`: the scores of the runs in one or many OUTs as a static site, written or served on this machine."""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from harness.cli.printing import answer


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the options of `board`."""
    command.add_argument("outs", nargs="+", metavar="OUT", help="folder or URL with the tables of runs")
    command.add_argument("--out", metavar="SITE", help="folder to write the site to; replaces an earlier board only")
    command.add_argument("--serve", action="store_true", help="serve the site on 127.0.0.1 until stopped (Ctrl-C)")
    command.add_argument("--port", type=int, default=0, metavar="N", help="port of --serve (default: any free one)")


def board(arguments: argparse.Namespace) -> int:
    """Write the board, serve it, or both; exit status 1 if an OUT or a run could not be read."""
    from harness.board import serving, site

    if not (arguments.out or arguments.serve):
        raise ValueError("give a folder for the site with --out SITE, or --serve to look at it.")
    with contextlib.ExitStack() as stack:
        scratch = arguments.out or stack.enter_context(tempfile.TemporaryDirectory(prefix="harness-board-"))
        page, problems = site.write(arguments.outs, scratch)
        content = {"page": page, "not_shown": [asdict(problem) for problem in problems]}
        if not arguments.serve:
            answer(arguments, content, f"open the board: {page}")
            return int(bool(problems))
        server = stack.enter_context(serving.server(str(Path(page).parent), arguments.port))
        url = f"http://{serving.HOST}:{server.server_port}/"
        answer(arguments, content | {"url": url}, f"open the board: {url} (Ctrl-C stops it)")
        sys.stdout.flush()
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()
        return int(bool(problems))
