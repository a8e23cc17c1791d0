"""`harness surprisal`: runs in this process when it writes to stdout or a file, on Ray when it writes tables."""

from __future__ import annotations

import argparse
import contextlib
import sys
import uuid
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.cli.printing import answer, document
from harness.cli.run_commands import exit_status, own_models
from harness.protocol import Protocol, surprisal_alone

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd

    from harness.units.word_units import WordOptions

_FILES = {".csv": ",", ".tsv": "\t"}


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the options that only `harness surprisal` has."""
    option = command.add_argument
    option(
        "corpus", nargs="+", metavar="CORPUS",
        help="data set, plain text, or a CSV, TSV or Parquet file with a column `word` (optional: `passage`, "
        "`sentence`, `word_id`)",
    )  # fmt: skip
    option(
        "--model", action="append", required=True, metavar="NAME_OR_FOLDER",
        help="name in the table, Hub id or checkpoint folder; repeatable",
    )  # fmt: skip
    option(
        "--context", choices=("passage", "sentence", "corpus", "none"), default="passage",
        help="text that precedes each word in the input: its passage (default), its sentence, the corpus, or nothing",
    )  # fmt: skip
    option("--joiner", metavar="TEXT", help='separator between words: a space (default), or "" as in Chinese')
    option(
        "--language", default="", metavar="CODE",
        help="language of the text, such as de or el, for finding sentence ends (default: en)",
    )  # fmt: skip
    option("--window", type=int, default=2048, help="tokens per window, at most the model's limit (default: 2048)")
    option(
        "--overlap", type=float, default=0.5, help="fraction of a window that overlaps the previous one (default: 0.5)"
    )
    option(
        "--bos", choices=("window", "text", "none"), default="window",
        help="where to insert the BOS token: in every window (default), only at the start of a text, or nowhere",
    )  # fmt: skip
    option(
        "--t5-reads", choices=("text", "context", "both"), default="text",
        help="T5 only: text: the whole text goes to the decoder (default); context: the preceding text goes to the "
        "encoder, the word to the decoder; both: compute both",
    )  # fmt: skip
    option("--out", metavar="CSV_OR_URL", help="a .csv or .tsv file, or a folder or URL for tables (default: stdout)")
    option(
        "--keep-going", action="store_true",
        help="with a folder as --out: if a model name is unknown, run the other models",
    )  # fmt: skip
    option("--address", metavar="ADDR", help="address of a Ray cluster, or auto (default: a local Ray)")
    option("--memory-gb", type=float, metavar="GB", help="memory for all workers together (default: the free memory)")


def surprisal(arguments: argparse.Namespace) -> int:
    """Compute the surprisal of each word; exit status 1 if a model failed."""
    own_models(arguments)
    protocol = surprisal_alone(arguments.context, arguments.window, arguments.overlap, arguments.bos)
    out = Path(arguments.out or "")
    if arguments.out and out.suffix.lower() not in _FILES:
        return _write_tables(arguments, protocol)
    frames = _compute(arguments, protocol)
    if arguments.json:
        document([row for frame in frames for row in frame.to_dict("records")])
    elif arguments.out:
        n_rows = _write(frames, out)
        print(f"{n_rows} rows in {out}")
    else:
        for k, frame in enumerate(frames):
            print(frame.to_csv(index=False, header=not k), end="")
    return 0


def _options(arguments: argparse.Namespace, protocol: Protocol) -> WordOptions:
    from harness.text.word_files import TextOptions
    from harness.units.word_units import WordOptions

    names = ("t5_reads", "dtype", "backend", "device", "data_root", "allow_pickle")
    text = TextOptions(arguments.encoding, arguments.joiner, arguments.language)
    return WordOptions(protocol, **{name: getattr(arguments, name) for name in names}, text=text)


def _compute(arguments: argparse.Namespace, protocol: Protocol) -> Iterator[pd.DataFrame]:
    """Compute in this process, with a progress bar on a terminal; yields one frame at a time."""
    from rich.console import Console
    from rich.progress import Progress, TextColumn, TimeElapsedColumn

    from harness.units import word_units

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}: {task.completed} words", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bars: dict[str, Any] = {}

        def advance(model: str, n_words: int) -> None:
            if model not in bars:
                bars[model] = progress.add_task(model, total=None)
            progress.update(bars[model], advance=n_words)

        def print_note(model: str, note: str) -> None:
            console.print(f"note: {model}: {note}", markup=False, highlight=False, soft_wrap=True)

        yield from word_units.surprisals(
            arguments.corpus, arguments.model, _options(arguments, protocol), progress=advance, on_note=print_note
        )


def _write(frames: Iterator[pd.DataFrame], out: Path) -> int:
    """Write to a temporary file, then rename it; returns the number of rows."""
    temporary, n_rows = out.with_name(f".{out.name}-{uuid.uuid4().hex[:8]}"), 0
    try:
        with temporary.open("w", encoding="utf-8", newline="") as stream:
            for frame in frames:
                frame.to_csv(stream, index=False, header=not n_rows, sep=_FILES[out.suffix.lower()])
                n_rows += len(frame)
        temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)
    return n_rows


def _write_tables(arguments: argparse.Namespace, protocol: Protocol) -> int:
    from rich.console import Console

    from harness.runs import word_surprisals
    from harness.runs.progress import Display

    console = Console(file=sys.stderr if arguments.json else sys.stdout)
    with Display(console) as display, contextlib.redirect_stdout(sys.stderr):
        outcome = word_surprisals.run(
            arguments.corpus, arguments.model, _options(arguments, protocol), arguments.out, address=arguments.address,
            memory_gb=arguments.memory_gb, listener=display, keep_going=arguments.keep_going,
        )  # fmt: skip
    is_complete = not (outcome.n_read or outcome.failures or outcome.was_stopped)
    new = "nothing to do: all results are stored" if is_complete else f"{outcome.n_read:,} computed now"
    text = f"{outcome.n_words:,} words ({new}); {outcome.seconds:.0f} s\ntable: {outcome.table}"
    answer(arguments, asdict(outcome), text)
    return exit_status(outcome)
