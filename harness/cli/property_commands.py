"""`harness properties`: measure MMLU and BBH, import published scores, list the stored ones."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from harness.cli.printing import answer, document, show
from harness.cli.run_commands import own_models
from harness.numbers import interval, number


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the options that only `harness properties` has."""
    option = command.add_argument
    option(
        "what", choices=("mmlu", "bbh", "bbh-choice", "import", "show"),
        help="benchmark to measure (bbh-choice takes the likeliest of the given answers); `import`: import scores from "
        "a file; `show`: list the stored scores",
    )  # fmt: skip
    option("file", nargs="?", metavar="FILE", help="import: results of lm-evaluation-harness, or a CSV")
    option(
        "--model", action="append", metavar="NAME_OR_FOLDER",
        help="name in the table, Hub id or checkpoint folder; repeatable",
    )  # fmt: skip
    option("--source", default="", metavar="TEXT", help="import: where the values are published")
    option("--percent", action="store_true", help="import: the values of the table are percentages")
    option("--out", default="results", metavar="URL", help="folder or URL for tables (default: results)")
    option("--batch-size", default="auto", metavar="N", help="prompts per batch (default: auto; 16 on a CPU)")
    option("--limit", type=int, metavar="N", help="questions per task at most, for a quick trial")


def properties(arguments: argparse.Namespace) -> int:
    """Measure, import or list MMLU and BBH scores; exit status 1 if a model could not be measured."""
    if arguments.limit is not None and arguments.limit < 1:
        raise ValueError(f"--limit must be 1 or more, not {arguments.limit}.")
    if arguments.what == "show":
        return _show(arguments)
    if arguments.what == "import":
        return _import(arguments)
    return _measure(arguments)


def _measure(arguments: argparse.Namespace) -> int:
    from harness.checkpoints.checkpoints import names_of, require_known, resolve
    from harness.checkpoints.fingerprints import CheckpointChangedError
    from harness.knowledge import benchmark_scores as properties
    from harness.knowledge.lm_eval import run

    own = own_models(arguments)
    names = arguments.model or own
    if not names:
        raise ValueError("no model to measure: give --model NAME_OR_FOLDER, once per model.")
    for name in names:
        require_known(name)
    root, device = Path(arguments.data_root or ".").absolute(), _device(arguments.device)
    batch = "16" if arguments.batch_size == "auto" and device == "cpu" else arguments.batch_size
    measured, failures = [], []
    for name, table_name in names_of(dict.fromkeys(names)).items():
        try:
            checkpoint = resolve(name, table_name, allow_pickle=arguments.allow_pickle)
            for note in checkpoint.notes:
                print(f"note: {checkpoint.name}: {note}", file=sys.stderr)
            results = run(checkpoint, arguments.what, root, device, batch, arguments.limit)
        except (RuntimeError, ModuleNotFoundError, CheckpointChangedError) as error:  # continue with the other models
            failures.append({"model": name, "message": str(error)})
            print(f"harness: {name}: {error}", file=sys.stderr)
            continue
        rows = properties.rows_of(results, arguments.what, checkpoint.name, checkpoint.revision, arguments.limit)
        properties.store(arguments.out, rows)
        measured += rows
        if not arguments.json:
            _print(rows)
    if arguments.json:
        document({"rows": measured, "failures": failures})
    return int(bool(failures))


def _device(device: str) -> str:
    if device != "auto":
        return device
    from harness.cli.doctor import has_cuda

    return "cuda" if has_cuda() else "cpu"


def _import(arguments: argparse.Namespace) -> int:
    from harness.checkpoints.checkpoints import name_of
    from harness.knowledge import benchmark_scores as properties

    if not arguments.file:
        raise ValueError("no file to import: give FILE.")
    if not Path(arguments.file).is_file():
        raise FileNotFoundError(f"{arguments.file} does not exist; give an existing FILE.")
    if arguments.file.lower().endswith(".json"):
        if len(arguments.model or ()) != 1:
            raise ValueError(
                "the file does not name the model of these results: give exactly one --model, as named in the tables."
            )
        root = Path(arguments.data_root) if arguments.data_root else None
        rows = properties.of_results(arguments.file, name_of(arguments.model[0]), "", root)
    else:
        rows = properties.of_table(
            arguments.file, arguments.source, percent=arguments.percent, encoding=arguments.encoding
        )
    properties.store(arguments.out, rows)
    n_models = len({row["model"] for row in rows})
    answer(arguments, {"rows": rows}, f"imported {len(rows)} values of {n_models} models into {arguments.out}")
    return 0


def _show(arguments: argparse.Namespace) -> int:
    from harness.storage import tables

    rows = tables.read(arguments.out, "benchmark_scores")
    rows = rows[rows["task"] == ""]
    if arguments.model:
        rows = rows[rows["model"].isin(arguments.model)]
    if arguments.json:
        document(rows.to_dict("records"))
    elif rows.empty:
        print(f"no benchmark scores under {arguments.out}; `harness properties mmlu --model NAME` measures them")
    else:
        _print(rows.sort_values(["model", "benchmark", "category"]).to_dict("records"))
    return 0


def _print(rows: list[dict[str, Any]]) -> None:
    """Print the overall and category scores as a table."""
    shown = [
        {
            "model": row["model"], "benchmark": row["benchmark"], "category": row["category"] or "all",
            "value": number(row["value"]), "95 % interval": interval(row["low"], row["high"]),
            "chance": number(row["chance"]), "questions": "" if row["n"] is None else f"{row['n']:.0f}",
            "source": row["source"],
        }
        for row in rows if row["task"] == ""
    ]  # fmt: skip
    show(shown, as_json=False)
    for model in dict.fromkeys(row["model"] for row in rows if row["truncated"]):
        print(f"{model}: some prompts exceed its context window; their first examples were cut off")
