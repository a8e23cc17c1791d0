"""The bodies of `harness properties`: measure MMLU and BBH, import what others measured, show what is known."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from harness.cli.printing import document, show


def add_options(command: argparse.ArgumentParser) -> None:
    """The options of `harness properties`."""
    command.add_argument(
        "what",
        choices=("mmlu", "bbh", "bbh-choice", "import", "show"),
        help="measure (bbh-choice: the likeliest of the answers offered); take over what others measured; list",
    )
    command.add_argument("file", nargs="?", metavar="FILE", help="import: results of lm-evaluation-harness, or a CSV")
    command.add_argument("--model", action="append", metavar="NAME_OR_FOLDER", help="which; repeatable")
    command.add_argument("--models", metavar="FILE", help="models of your own: a TOML or YAML file")
    command.add_argument("--allow-pickle", action="store_true", help="load pickled weights too, which can run any code")
    command.add_argument("--source", default="", metavar="TEXT", help="import: where the values are published")
    command.add_argument("--percent", action="store_true", help="import: the values of a table are percent")
    command.add_argument(
        "--encoding", metavar="NAME", help="import: of a table that is not UTF-8 and does not state it"
    )
    command.add_argument("--out", default="results", metavar="URL", help="folder or URL of tables (default: results)")
    command.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    command.add_argument("--batch-size", default="auto", metavar="N", help="prompts at once (default: 16 on a CPU)")
    command.add_argument("--limit", type=int, metavar="N", help="questions of each task at most: for a trial")


def properties(arguments: argparse.Namespace) -> int:
    """MMLU and BBH of models; 1 where one could not be measured."""
    if arguments.limit is not None and arguments.limit < 1:
        raise ValueError("--limit must be 1 or more.")
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
    from harness.models import model_table

    names = list(model_table.extend(arguments.models)) if arguments.models else []
    names = arguments.model or names
    if not names:
        raise ValueError("of which model? Give --model NAME_OR_FOLDER, once for each.")
    for name in names:
        require_known(name)
    root, device = Path(arguments.data_root or ".").absolute(), _device(arguments.device)
    batch = "16" if arguments.batch_size == "auto" and device == "cpu" else arguments.batch_size
    done, failed = [], []
    for name, known_as in names_of(dict.fromkeys(names)).items():
        try:
            checkpoint = resolve(name, known_as, allow_pickle=arguments.allow_pickle)
            for note in checkpoint.notes:
                print(f"note: {checkpoint.name}: {note}", file=sys.stderr)
            ran = run(checkpoint, arguments.what, root, device, batch, arguments.limit)
        except (RuntimeError, ModuleNotFoundError, CheckpointChangedError) as error:  # the others go on
            failed.append({"model": name, "message": str(error)})
            print(f"harness: {name}: {error}", file=sys.stderr)
            continue
        rows = properties.rows_of(ran, arguments.what, checkpoint.name, checkpoint.revision, arguments.limit)
        properties.store(arguments.out, rows)
        done += rows
        if not arguments.json:
            _print(rows)
    if arguments.json:
        document({"rows": done, "failures": failed})
    return int(bool(failed))


def _device(asked: str) -> str:
    if asked != "auto":
        return asked
    from harness.cli.doctor import has_cuda

    return "cuda" if has_cuda() else "cpu"


def _import(arguments: argparse.Namespace) -> int:
    from harness.checkpoints.checkpoints import name_of
    from harness.knowledge import benchmark_scores as properties

    if not arguments.file:
        raise ValueError("import what? Give a file.")
    if not Path(arguments.file).is_file():
        raise FileNotFoundError(f"{arguments.file} is not there.")
    if arguments.file.lower().endswith(".json"):
        if len(arguments.model or ()) != 1:
            raise ValueError("of which model are these results? Give one --model, as it stands in the tables.")
        root = Path(arguments.data_root) if arguments.data_root else None
        rows = properties.of_results(arguments.file, name_of(arguments.model[0]), "", root)
    else:
        rows = properties.of_table(
            arguments.file, arguments.source, percent=arguments.percent, encoding=arguments.encoding
        )
    properties.store(arguments.out, rows)
    if arguments.json:
        document({"rows": rows})
    else:
        n_models = len({row["model"] for row in rows})
        print(f"{len(rows)} values of {n_models} models; `harness analyse {arguments.out}` and the report have them.")
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
        print(f"no benchmark_scores under {arguments.out}; `harness properties mmlu --model NAME` measures.")
    else:
        _print(rows.sort_values(["model", "benchmark", "category"]).to_dict("records"))
    return 0


def _print(rows: list[dict[str, Any]]) -> None:
    """The whole and the categories, as people read them."""
    from harness.numbers import interval, number

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
    for model in dict.fromkeys(row["model"] for row in rows if row["cut"]):
        print(f"Prompts did not fit the window of {model}: their beginning, its examples, was cut off.")
