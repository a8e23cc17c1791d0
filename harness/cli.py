"""The `harness` command: parses, makes one call, prints, returns a status.

Exit status: 0 all done, 1 something failed and is listed, 2 wrong use. Nothing heavy is imported before it is needed.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

from harness.printing import document, show
from harness.spec import SPECS, EvaluationSpec, ProtocolName


def main(argv: list[str] | None = None) -> int:
    """Run one command; the entry point of the console script."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(name)s %(message)s")
    try:
        status: int = arguments.command(arguments)
    except (ValueError, OSError) as error:
        print(f"harness: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("harness: stopped; the same command goes on where this one ended", file=sys.stderr)
        return 1
    return status


# --- commands ---------------------------------------------------------------------------------------------------------


def _run(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from harness import pipeline, report
    from harness.progress import Display

    spec = _spec(arguments)
    console = Console(file=sys.stderr if arguments.json else sys.stdout)
    # Ray writes its warnings to stdout, which belongs to our own lines or to the one JSON document.
    with Display(console) as display, contextlib.redirect_stdout(sys.stderr):
        outcome = pipeline.run(
            spec,
            arguments.out,
            arguments.data_root,
            address=arguments.address,
            device=arguments.device,
            watcher=display,
        )
    page = report.write(arguments.out, outcome.run)
    if arguments.json:
        document(asdict(outcome) | {"report": page})
    else:
        print(_last_words(outcome, page))
    return 1 if outcome.failures else 0


def _last_words(outcome: Any, page: str) -> str:
    if outcome.failures:
        did = f"{outcome.n_computed} scores computed, {len(outcome.failures)} failures (table `failures`)"
    elif outcome.n_units == 0:
        did = "nothing to do: no data set of the spec has the protocol asked for"
    elif outcome.n_computed == 0:
        did = f"nothing to do: all {outcome.n_units} scores were there"
    else:
        did = f"{outcome.n_computed} scores computed, {outcome.n_reused} were there"
    return f"run {outcome.run}: {did}; {outcome.seconds:.0f} s\nopen the report: {page}"


# --protocol -> what is run.
_PROTOCOLS: dict[str, tuple[ProtocolName, ...]] = {
    "paper": ("paper",),
    "strict": ("strict",),
    "brainscore2026": ("brainscore2026",),
    "both": ("strict", "paper"),
    "all": ("strict", "paper", "brainscore2026"),
}


def _spec(arguments: argparse.Namespace) -> EvaluationSpec:
    spec = _named(SPECS, arguments.spec, "spec")()
    spec = replace(spec, protocols=_PROTOCOLS[arguments.protocol], untrained=not arguments.no_untrained)
    if arguments.model:
        spec = replace(spec, models=tuple(arguments.model))
    if arguments.dataset:
        from harness import datasets

        spec = replace(spec, datasets=tuple(member for name in arguments.dataset for member in datasets.expand(name)))
    if not spec.models:
        raise ValueError(f"spec {spec.name!r} names no models: give --model NAME_OR_FOLDER, once for each.")
    return spec


def _named(table: dict[str, Callable[[], EvaluationSpec]], name: str, what: str) -> Callable[[], EvaluationSpec]:
    import difflib

    if name not in table:
        near = difflib.get_close_matches(name, table, n=3, cutoff=0.4) or list(table)
        raise ValueError(f"{what} {name!r} is unknown; the nearest are {', '.join(near)}.")
    return table[name]


def _report(arguments: argparse.Namespace) -> int:
    from harness import report

    if arguments.markdown:
        print(report.markdown(arguments.out, arguments.run))
        return 0
    page = report.write(arguments.out, arguments.run)
    if arguments.json:
        document({"report": page})
    else:
        print(f"open the report: {page}")
    return 0


def _models(arguments: argparse.Namespace) -> int:
    from harness.models import MODELS

    return show([asdict(entry) for entry in MODELS.values()], arguments.json)


def _datasets(arguments: argparse.Namespace) -> int:
    from harness import datasets

    root = arguments.data_root or "."
    if arguments.name:
        return _show_dataset(arguments, root)
    rows = [
        {
            "name": entry.name, "kind": entry.kind, "here": not datasets.missing(entry.name, root),
            "licence": entry.licence + (" (non-commercial use only)" if entry.non_commercial else ""),
            "title": entry.title,
        }
        for entry in datasets.DATASETS.values()
    ]  # fmt: skip
    return show(rows, arguments.json)


def _show_dataset(arguments: argparse.Namespace, root: str) -> int:
    """One data set: where its files are published, what is missing, its protocols in words."""
    from harness import datasets
    from harness.findings import in_words

    entry = datasets.find(arguments.name)
    protocols = {protocol.name: asdict(protocol) | {"hash": protocol.hash} for protocol in entry.protocols}
    missing = [file._asdict() for file in datasets.missing(entry.name, root)] if entry.files else []
    if arguments.json:
        optional = [file._asdict() for file in entry.optional]
        document(entry.described() | {"missing": missing, "optional": optional, "protocols": protocols})
        return 0
    print(f"{entry.title}\n{entry.citation}\nlicence: {entry.licence}\npublished at: {entry.landing}")
    print(f"missing under {root}: {', '.join(file['path'] for file in missing) or 'nothing'}")
    for file in entry.optional:
        print(f"also read where it is there: {file.path} ({file.url or entry.landing})")
    words = {protocol.name: in_words(protocol) for protocol in entry.protocols}
    for name, protocol in protocols.items():
        print(f"\n{name} ({protocol['hash']}): {words[name]}")
        for key, value in protocol.items():
            if key not in {"name", "hash", "notes"} and value is not None:
                print(f"  {key}: {value}")
        for note in protocol["notes"]:
            print(f"  - {note}")
    return 0


def _specs(arguments: argparse.Namespace) -> int:
    return show([asdict(make()) | {"about": (make.__doc__ or "").strip()} for make in SPECS.values()], arguments.json)


def _controls(arguments: argparse.Namespace) -> int:
    from harness.controls import CONTROLS

    return show([{"name": name, "about": control.title} for name, control in CONTROLS.items()], arguments.json)


def _conform(arguments: argparse.Namespace) -> int:
    from harness import conform, verdicts

    results = conform.run(arguments.folder)
    if arguments.json:
        document([result.as_row() for result in results])
    else:
        print("\n".join(verdicts.in_lines(results)))
    return int(any(result.fails for result in results))


def _surprisal(arguments: argparse.Namespace) -> int:
    from harness import texts

    frame = texts.surprisals(arguments.file, arguments.model, arguments.context)
    if arguments.json:
        document(frame.to_dict("records"))
    elif arguments.out:
        frame.to_csv(arguments.out, index=False)
        print(f"{len(frame)} rows in {arguments.out}")
    else:
        print(frame.to_csv(index=False), end="")
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    from harness import doctor

    found = doctor.examine(arguments.data_root or ".")
    return show(found, arguments.json) or int(any(row["state"] == "broken" for row in found))


# --- arguments --------------------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="harness", description="Score language models against brains and reading times."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, call: Callable[[argparse.Namespace], int], about: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=about, description=about)
        command.set_defaults(command=call)
        command.add_argument("--json", action="store_true", help="print one JSON document on stdout, nothing else")
        return command

    def add_data_root(command: argparse.ArgumentParser) -> None:
        command.add_argument(
            "--data-root",
            default=os.environ.get("HARNESS_DATA"),
            metavar="DIR",
            help="recordings (default: HARNESS_DATA)",
        )

    run = add("run", _run, "Run a spec: models -> features -> scores -> tables -> report.")
    run.add_argument("spec", metavar="SPEC", help=f"one of {', '.join(SPECS)}")
    run.add_argument(
        "--model", action="append", metavar="NAME_OR_FOLDER", help="table name, Hub id or folder; repeatable"
    )
    run.add_argument(
        "--dataset", action="append", metavar="NAME", help="instead of the spec's, or local:FOLDER; repeatable"
    )
    run.add_argument("--protocol", choices=tuple(_PROTOCOLS), default="both", help="default: both, strict and paper")
    run.add_argument("--no-untrained", action="store_true", help="leave out the untrained twins")
    run.add_argument(
        "--out", default="results", metavar="URL", help="folder or URL of units and tables (default: results)"
    )
    run.add_argument("--address", metavar="ADDR", help="a Ray cluster (default: a local Ray)")
    run.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    add_data_root(run)

    report = add("report", _report, "Tables -> one self-contained HTML page.")
    report.add_argument("out", metavar="OUT")
    report.add_argument("--run", help="which run (default: the newest)")
    report.add_argument("--markdown", action="store_true", help="print the main tables as Markdown instead")

    add("models", _models, "The table of models.")
    shown = add(
        "datasets", _datasets, "The data sets: what is here, what is missing, licences; NAME or local:FOLDER shows one."
    )
    shown.add_argument("name", nargs="?", metavar="NAME")
    add_data_root(shown)
    add("specs", _specs, "The named evaluations.")
    add("controls", _controls, "Features without a language model.")

    words = add("surprisal", _surprisal, "Bits per word of your own text.")
    words.add_argument(
        "file", metavar="FILE", help="CSV with a column `word` (and `passage`, `word_id`), or plain text"
    )
    words.add_argument("--model", action="append", required=True, metavar="NAME_OR_FOLDER")
    words.add_argument("--context", choices=("passage", "corpus"), default="passage")
    words.add_argument("--out", metavar="CSV", help="write there instead of to stdout")

    conform = add("conform", _conform, "Compare with recorded vectors of Brain-Score: |dr|, splits, alphas, by case.")
    conform.add_argument("folder", metavar="FOLDER", help=".npz archives, one for each case")

    add_data_root(add("doctor", _doctor, "What works on this machine."))
    return parser


if __name__ == "__main__":
    sys.exit(main())
