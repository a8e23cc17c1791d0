"""The body of `harness surprisal`: to stdout or a file in this process, to a folder of tables on Ray."""

from __future__ import annotations

import argparse
import contextlib
import sys
import uuid
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.cli.printing import document
from harness.protocol import Protocol, surprisal_alone

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd

_FILES = {".csv": ",", ".tsv": "\t"}


def add_options(command: argparse.ArgumentParser) -> None:
    """What `harness surprisal` takes besides precision, library and data root."""
    command.add_argument(
        "corpus", nargs="+", metavar="CORPUS",
        help="CSV, TSV or Parquet with a column `word` (and `passage`, `sentence`, `word_id`), text, or a data set",
    )  # fmt: skip
    command.add_argument(
        "--model", action="append", required=True, metavar="NAME_OR_FOLDER", help="table name, Hub id or folder"
    )
    command.add_argument(
        "--context", choices=("passage", "sentence", "corpus", "none"), default="passage",
        help="what is read before a word: its passage (the default), its sentence, the whole corpus, nothing",
    )  # fmt: skip
    command.add_argument(
        "--joiner", metavar="TEXT", help='between words in the text: a space (the default), "" for none, as in Chinese'
    )
    command.add_argument(
        "--language",
        default="",
        metavar="CODE",
        help="of the texts, such as de or el: where sentences end (default: en)",
    )
    command.add_argument(
        "--encoding", metavar="NAME", help="of a file that is not UTF-8 and does not state it, such as windows-1252"
    )
    command.add_argument("--window", type=int, default=2048, help="tokens at once at most, if the model reads as many")
    command.add_argument("--overlap", type=float, default=0.5, help="share of a window that the one before has read")
    command.add_argument(
        "--bos", choices=("window", "text", "none"), default="window",
        help="which windows begin with the model's BOS: each, the first of a text, none (default: each)",
    )  # fmt: skip
    command.add_argument(
        "--t5-reads", choices=("text", "context", "both"), default="text",
        help="T5: the text by its decoder alone, or the word by its decoder and the context in its encoder",
    )  # fmt: skip
    command.add_argument(
        "--out", metavar="CSV_OR_URL", help="a .csv or .tsv file; else a folder or URL of tables (default: stdout)"
    )
    command.add_argument("--allow-pickle", action="store_true", help="load pickled weights too, which can run any code")
    command.add_argument(
        "--keep-going", action="store_true", help="to a folder: where the name of a model is not known, read the others"
    )
    command.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    command.add_argument("--address", metavar="ADDR", help="a Ray cluster (default: a local Ray)")
    command.add_argument("--memory-gb", type=float, metavar="GB", help="of all workers (default: what is free)")


def surprisal(arguments: argparse.Namespace) -> int:
    """Surprisal of words; 1 where a model failed."""
    if arguments.models:
        from harness.models import model_table

        model_table.extend(arguments.models)
    how = surprisal_alone(arguments.context, arguments.window, arguments.overlap, arguments.bos)
    out = Path(arguments.out or "")
    if arguments.out and out.suffix.lower() not in _FILES:
        return _tables(arguments, how)
    frames = _here(arguments, how)
    if arguments.json:
        document([row for frame in frames for row in frame.to_dict("records")])
    elif arguments.out:
        n_rows = _write(frames, out)
        print(f"{n_rows} rows in {out}")
    else:
        for k, frame in enumerate(frames):
            print(frame.to_csv(index=False, header=not k), end="")
    return 0


def _options(arguments: argparse.Namespace) -> dict[str, Any]:
    from harness.text.word_files import TextOptions

    names = ("t5_reads", "dtype", "backend", "device", "data_root", "allow_pickle")
    said = TextOptions(arguments.encoding, arguments.joiner, arguments.language)
    return {name: getattr(arguments, name) for name in names} | {"options": said}


def _here(arguments: argparse.Namespace, how: Protocol) -> Iterator[pd.DataFrame]:
    """In this process, with a bar on a terminal."""
    from rich.console import Console
    from rich.progress import Progress, TextColumn, TimeElapsedColumn

    from harness.loading import memory
    from harness.units import word_units

    options = _options(arguments)
    if options["device"] == "auto":
        options["device"] = memory.best_device()
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}: {task.completed} words", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as shown:
        bars: dict[str, Any] = {}

        def heard(model: str, n_words: int) -> None:
            if model not in bars:
                bars[model] = shown.add_task(model, total=None)
            shown.update(bars[model], advance=n_words)

        def remarked(model: str, note: str) -> None:
            console.print(f"note: {model}: {note}", markup=False, highlight=False, soft_wrap=True)

        yield from word_units.surprisals(
            arguments.corpus, arguments.model, how, progress=heard, remarked=remarked, **options
        )


def _write(frames: Iterator[pd.DataFrame], out: Path) -> int:
    """Aside, and into place when all is written."""
    aside, n_rows = out.with_name(f".{out.name}-{uuid.uuid4().hex[:8]}"), 0
    try:
        with aside.open("w", encoding="utf-8", newline="") as stream:
            for frame in frames:
                frame.to_csv(stream, index=False, header=not n_rows, sep=_FILES[out.suffix.lower()])
                n_rows += len(frame)
        aside.replace(out)
    finally:
        aside.unlink(missing_ok=True)
    return n_rows


def _tables(arguments: argparse.Namespace, how: Protocol) -> int:
    from rich.console import Console

    from harness.runs import word_surprisals
    from harness.runs.progress import Display

    console = Console(file=sys.stderr if arguments.json else sys.stdout)
    with Display(console) as display, contextlib.redirect_stdout(sys.stderr):
        found = word_surprisals.run(
            arguments.corpus, arguments.model, how, arguments.out, address=arguments.address,
            memory_gb=arguments.memory_gb, listener=display, keep_going=arguments.keep_going, **_options(arguments),
        )  # fmt: skip
    if arguments.json:
        document(asdict(found))
    else:
        is_whole = not (found.n_read or found.failures or found.was_stopped)
        new = "nothing to do: all were there" if is_whole else f"{found.n_read:,} read now"
        print(f"{found.n_words:,} words ({new}); {found.seconds:.0f} s\ntable: {found.table}")
    if found.was_stopped:
        print("harness: stopped; the same command goes on where this one ended", file=sys.stderr)
    return int(bool(found.failures or found.was_stopped))
