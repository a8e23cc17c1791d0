"""The commands' bodies: each takes the parsed arguments, makes one call, prints, and gives the exit status.

What a command needs is imported when it is called, so that `harness --help` loads nothing heavy.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from harness.cli.printing import document, show
from harness.numbers import size
from harness.protocol import ProtocolName, Variant
from harness.spec import SPECS, EvaluationSpec


def run(arguments: argparse.Namespace) -> int:
    """Run a spec, write its tables and its report; 1 where something failed."""
    from rich.console import Console

    from harness.report import page as report
    from harness.runs import pipeline
    from harness.runs.progress import Display

    spec = spec_of(arguments)
    console = Console(file=sys.stderr if arguments.json else sys.stdout)
    # Ray writes its warnings to stdout, which belongs to our own lines or to the one JSON document.
    with Display(console) as display, contextlib.redirect_stdout(sys.stderr):
        outcome = pipeline.run(
            spec,
            arguments.out,
            arguments.data_root,
            address=arguments.address,
            device=arguments.device,
            pinned=not arguments.unpinned,
            allow_pickle=arguments.allow_pickle,
            usd_per_gpu_hour=arguments.usd_per_gpu_hour,
            listener=display,
            keep_going=arguments.keep_going,
        )
    page = report.write(arguments.out, outcome.run)
    if arguments.json:
        document(asdict(outcome) | {"report": page})
    else:
        print(_last_words(outcome, page))
    if outcome.was_stopped:
        print("harness: stopped; the same command goes on where this one ended", file=sys.stderr)
    return int(bool(outcome.failures or outcome.was_stopped))


def _last_words(outcome: Any, page: str) -> str:
    if outcome.failures:
        did = f"{outcome.n_computed} scores computed, {len(outcome.failures)} failures (table `failures`)"
    elif outcome.n_units == 0:
        did = "nothing to do: no data set of the spec has the protocol asked for"
    elif outcome.n_computed == 0 and not outcome.was_stopped:
        did = f"nothing to do: all {outcome.n_units} scores were there"
    else:
        did = f"{outcome.n_computed} scores computed, {outcome.n_reused} were there"
    if outcome.was_stopped:
        did += f", {outcome.n_units - outcome.n_computed - outcome.n_reused} are left"
    return f"run {outcome.run}: {did}; {outcome.seconds:.0f} s\nopen the report: {page}"


# --protocol -> what is run.
PROTOCOLS: dict[str, tuple[ProtocolName, ...]] = {
    "paper": ("paper",),
    "strict": ("strict",),
    "equal": ("equal",),
    "brainscore2026": ("brainscore2026",),
    "both": ("strict", "paper"),
    "all": ("strict", "paper", "equal", "brainscore2026"),
}


def spec_of(arguments: argparse.Namespace) -> EvaluationSpec:
    """The spec that the arguments ask for; ValueError where a name is unknown or no model is given."""
    spec = _named(SPECS, arguments.spec, "spec")()
    spec = replace(spec, protocols=PROTOCOLS[arguments.protocol], variants=_variants(arguments))
    spec = replace(spec, vectors=arguments.vectors, corpus=arguments.corpus)
    spec = replace(spec, dtype=arguments.dtype, backend=arguments.backend)
    if arguments.models:
        from harness.models import model_table as models

        spec = replace(spec, models=(*spec.models, *models.extend(arguments.models)))
    if arguments.model:
        spec = replace(spec, models=tuple(arguments.model))
    if arguments.dataset:
        from harness import datasets

        spec = replace(spec, datasets=tuple(member for name in arguments.dataset for member in datasets.expand(name)))
    if not spec.models:
        raise ValueError(f"spec {spec.name!r} names no models: give --model NAME_OR_FOLDER, once for each.")
    return spec


def _variants(arguments: argparse.Namespace) -> tuple[Variant, ...]:
    asked: dict[Variant, bool] = {
        "untrained": not arguments.no_untrained, "shuffled": arguments.shuffled, "chat": arguments.chat_template,
    }  # fmt: skip
    return tuple(variant for variant, is_asked in asked.items() if is_asked)


def _named(table: dict[str, Callable[[], EvaluationSpec]], name: str, what: str) -> Callable[[], EvaluationSpec]:
    import difflib

    if name not in table:
        near = difflib.get_close_matches(name, table, n=3, cutoff=0.4) or list(table)
        raise ValueError(f"{what} {name!r} is unknown; the nearest are {', '.join(near)}.")
    return table[name]


def report(arguments: argparse.Namespace) -> int:
    """Write the page of a run, or print its tables as Markdown."""
    from harness.report import page as report

    if arguments.markdown or arguments.latex:
        print((report.markdown if arguments.markdown else report.latex)(arguments.out, arguments.run))
        return 0
    page = report.write(arguments.out, arguments.run)
    if arguments.json:
        document({"report": page})
    else:
        print(f"open the report: {page}")
    return 0


def datasets(arguments: argparse.Namespace) -> int:
    """The table of data sets, or one of them with its files and protocols."""
    from harness import datasets
    from harness.cli import dataset_listing

    root = _root(arguments)
    if arguments.name:
        entry = datasets.find(arguments.name)
        if arguments.json:
            document(dataset_listing.described(entry, root))
        else:
            print("\n".join(dataset_listing.in_full(entry, root)))
        return 0
    known = [dataset_listing.summary(entry, root) for entry in datasets.DATASETS.values()]
    if arguments.json:
        document(known)
        return 0
    show(dataset_listing.table(known), as_json=False)
    print("", *dataset_listing.remarks(known, root), sep="\n")
    return 0


def fetch(arguments: argparse.Namespace) -> int:
    """Download data sets to their place; 1 where a file could not be had."""
    from rich.console import Console

    from harness import datasets
    from harness.cli import dataset_listing
    from harness.datasets.fetching.fetch import fetch

    root = _root(arguments)
    names = dict.fromkeys(member for name in arguments.dataset for member in datasets.expand(name))
    entries = [datasets.find(name) for name in names]
    for entry in entries:
        if entry.non_commercial:
            print(f"{entry.name}: {entry.licence}{dataset_listing.warning_of(entry)}", file=sys.stderr)
    rows = fetch(entries, root, console=Console(stderr=True), wait_s=arguments.wait)
    if arguments.json:
        states = ("fetched", "there", "failed")
        document({"root": str(root)} | {name: [asdict(row) for row in rows if row.state == name] for name in states})
    else:
        print("\n".join(dataset_listing.of_fetch(entries, rows)))
    return int(any(row.state == "failed" for row in rows))


def _root(arguments: argparse.Namespace) -> Path:
    return Path(arguments.data_root or ".").absolute()


def specs(arguments: argparse.Namespace) -> int:
    """The named evaluations."""
    return show([asdict(make()) | {"about": (make.__doc__ or "").strip()} for make in SPECS.values()], arguments.json)


def controls(arguments: argparse.Namespace) -> int:
    """The features without a language model, and those of a model that knows nothing, or no order."""
    from harness.features.controls import CONTROLS, OF_A_MODEL

    return show([*(control.described for control in CONTROLS.values()), *OF_A_MODEL], arguments.json)


def conform(arguments: argparse.Namespace) -> int:
    """Compare with recorded vectors; 1 where a case differs."""
    from harness.conformance import compare as conform
    from harness.conformance import verdicts

    results = conform.run(arguments.folder)
    if arguments.json:
        document([result.as_row() for result in results])
    else:
        print("\n".join(verdicts.in_lines(results)))
    return int(any(result.fails for result in results))


def doctor(arguments: argparse.Namespace) -> int:
    """What works on this machine; 1 where something that is needed does not."""
    from harness.cli import doctor

    found = doctor.examine(arguments.data_root or ".")
    return show(found, arguments.json) or int(any(row["state"] == "broken" for row in found))


def cache(arguments: argparse.Namespace) -> int:
    """What the store holds, whether it is as it was written, and what of it is of no use."""
    from harness.storage.store import Store

    store = Store(arguments.out)
    if not store.fs.isdir(store.root):
        raise FileNotFoundError(f"no units under {arguments.out}; give the --out of a run.")
    return {"ls": _cache_ls, "verify": _cache_verify, "gc": _cache_gc}[arguments.what](store, arguments)


def _cache_ls(store: Any, arguments: argparse.Namespace) -> int:
    from harness.storage import inventory as cache

    found = cache.ls(store)
    if arguments.json:
        document([asdict(unit) for unit in found])
        return 0
    rows = [
        asdict(unit) | {"key": unit.key[:12], "created": unit.created[:16], "bytes": size(unit.bytes),
                        "runs": len(unit.runs)}
        for unit in found
    ]  # fmt: skip
    if rows:
        show(rows, as_json=False)
    print(f"{len(found)} units, {size(sum(unit.bytes for unit in found))} in {store.root}")
    return 0


def _cache_verify(store: Any, arguments: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.progress import Progress

    from harness.storage import inventory as cache

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("reading", total=None)
        n_units, n_bytes, corrupt = cache.verify(
            store, lambda done, total: progress.update(bar, completed=done, total=total)
        )
    damaged = cache.damaged_tables(store)
    if arguments.json:
        corrupted = [vars(error) for error in corrupt]
        document({"units": n_units, "bytes": n_bytes, "corrupt": corrupted, "tables": damaged})
    else:
        for fault in damaged:
            print(f"tables of {fault}. Give the command of that run again: they are put together anew.")
        for error in corrupt:
            print(f"{error} It is removed; the next run computes it again.")
        print(f"{n_units} units read, {size(n_bytes)}: {len(corrupt) or 'none'} corrupt")
    return int(bool(corrupt or damaged))


def _cache_gc(store: Any, arguments: argparse.Namespace) -> int:
    from harness.storage import inventory as cache

    found = cache.unused_files(store, unused=arguments.unused)
    if arguments.yes:
        cache.remove(store, found)
    if arguments.json:
        document({"removed": arguments.yes, "waste": [asdict(each) for each in found]})
        return 0
    for each in found:
        print(f"{size(each.bytes):>9}  {each.path}: {each.why}")
    total = f"{len(found)} things, {size(sum(each.bytes for each in found))}"
    print(f"removed {total}" if arguments.yes else f"would remove {total}; give --yes to do it")
    return 0
