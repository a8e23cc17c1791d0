"""`harness run`, `report`, `datasets`, `fetch`, `specs`, `controls`, `conform`, `doctor` and `cache`.

Each function takes the parsed arguments, prints its result and returns the exit status. Imports are inside the
functions, so that `harness --help` loads no heavy library.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from harness import variants
from harness.cli import track_commands
from harness.cli.printing import STOPPED, answer, document, show
from harness.models import model_table
from harness.names import unknown
from harness.numbers import size
from harness.protocol import ProtocolName, Variant
from harness.spec import SPECS, EvaluationSpec
from harness.tracking import trackers

if TYPE_CHECKING:
    from harness.runs.outcome import Outcome


def run(arguments: argparse.Namespace) -> int:
    """Run a spec, write its tables and its report; exit status 1 if something failed."""
    trackers.require_installed(arguments.track)
    outcome, page = evaluate(arguments, spec_of(arguments), sys.stderr if arguments.json else sys.stdout)
    sent = [] if outcome.was_stopped else track_commands.send(arguments.out, outcome.run, arguments.track)
    content = asdict(outcome) | {"report": page} | ({"tracked": sent} if arguments.track else {})
    answer(arguments, content, "\n".join([_last_words(outcome, page), *map(track_commands.in_words, sent)]))
    return max(exit_status(outcome), *(int(bool(result["error"])) for result in sent), 0)


def exit_status(outcome: Any) -> int:
    """1 if something of a run failed or the run was stopped, else 0; a stop is also reported on stderr."""
    if outcome.was_stopped:
        print(f"harness: {STOPPED}", file=sys.stderr)
    return int(bool(outcome.failures or outcome.was_stopped))


def evaluate(
    arguments: argparse.Namespace, spec: EvaluationSpec, shown_on: TextIO, **changes: Any
) -> tuple[Outcome, str]:  # fmt: skip
    """Run a spec as the arguments of `run` or `watch` say, with progress on a stream; the outcome and the report."""
    from rich.console import Console

    from harness.report import page
    from harness.runs import pipeline
    from harness.runs.progress import Display

    names = ("data_root", "device", "allow_pickle", "usd_per_gpu_hour", "keep_going")
    given = {name: getattr(arguments, name) for name in names} | {"pinned": not arguments.unpinned}
    # Ray prints warnings to stdout, where they would mix with the JSON document.
    with Display(Console(file=shown_on)) as display, contextlib.redirect_stdout(sys.stderr):
        options = pipeline.RunOptions(**given | changes)
        outcome = pipeline.run(spec, arguments.out, options, address=arguments.address, listener=display)
        return outcome, page.write(arguments.out, outcome.run)


def _last_words(outcome: Any, page: str) -> str:
    if outcome.failures:
        summary = f"{outcome.n_computed} scores computed, {len(outcome.failures)} failures (table `failures`)"
    elif outcome.n_units == 0:
        summary = "nothing to do: no data set of the spec has the requested protocol"
    elif outcome.n_computed == 0 and not outcome.was_stopped:
        summary = f"nothing to do: all {outcome.n_units} scores are already stored"
    else:
        summary = f"{outcome.n_computed} scores computed, {outcome.n_reused} reused"
    if outcome.was_stopped:
        summary += f", {outcome.n_units - outcome.n_computed - outcome.n_reused} remaining"
    return f"run {outcome.run}: {summary}; {outcome.seconds:.0f} s\nopen the report: {page}"


# Value of --protocol -> protocols to run.
PROTOCOLS: dict[str, tuple[ProtocolName, ...]] = {
    "paper": ("paper",), "strict": ("strict",), "equal": ("equal",), "brainscore2026": ("brainscore2026",),
    "both": ("strict", "paper"), "all": ("strict", "paper", "equal", "brainscore2026"),
}  # fmt: skip


def spec_of(arguments: argparse.Namespace) -> EvaluationSpec:
    """Build the evaluation spec from the arguments.

    Args:
        arguments: as parsed for `run`.

    Raises:
        ValueError: if the spec or a data set is unknown, or no model is given.
    """
    settings = {name: getattr(arguments, name) for name in ("vectors", "corpus", "dtype", "backend")}
    spec = replace(require_spec(arguments.spec)(), protocols=PROTOCOLS[arguments.protocol], **settings)
    spec = replace(spec, variants=_variants(arguments), keep=tuple(sorted(set(arguments.keep))))
    spec = replace(
        spec, conditions=variants.conditions(arguments.condition, arguments.conditions),
        localise=tuple(dict.fromkeys(arguments.localise)), localiser=arguments.localiser,
        random_draws=1 if arguments.random_draws is None else arguments.random_draws,
    )  # fmt: skip
    if arguments.control:
        spec = replace(spec, controls=tuple(dict.fromkeys([*spec.controls, *arguments.control])))
    own = own_models(arguments)
    spec = replace(spec, models=tuple(arguments.model or (*spec.models, *own)))
    if arguments.dataset:
        from harness import datasets

        spec = replace(spec, datasets=tuple(member for name in arguments.dataset for member in datasets.expand(name)))
    if not spec.models:
        raise ValueError(f"spec {spec.name!r} names no models: give --model NAME_OR_FOLDER, once per model.")
    return spec


def own_models(arguments: argparse.Namespace) -> list[str]:
    """Add the models of the file given by --models to the table; their names."""
    return list(model_table.extend(arguments.models)) if arguments.models else []


def _variants(arguments: argparse.Namespace) -> tuple[Variant, ...]:
    is_requested: dict[Variant, bool] = {
        "untrained": not arguments.no_untrained, "shuffled": arguments.shuffled, "chat": arguments.chat_template,
    }  # fmt: skip
    return tuple(variant for variant, requested in is_requested.items() if requested)


def require_spec(name: str) -> Callable[[], EvaluationSpec]:
    """Look up a named evaluation; ValueError with the nearest names if it is unknown."""
    if name not in SPECS:
        raise unknown("spec", name, SPECS)
    return SPECS[name]


def report(arguments: argparse.Namespace) -> int:
    """Write the HTML report of a run, or print its tables as Markdown or LaTeX."""
    from harness.report import page as report

    if arguments.figures and arguments.columns:
        raise ValueError("--figures and --columns are two outputs; give one at a time.")
    if arguments.figures:
        paths = report.write_figures(arguments.out, arguments.figures, arguments.run)
        return show([{"figure": path} for path in paths], arguments.json)
    if arguments.columns:
        return _paper_table(arguments)
    if arguments.dataset or arguments.protocol:
        raise ValueError(
            "--dataset and --protocol choose the rows of --columns NAME,...; `--columns help` lists these."
        )
    if arguments.markdown or arguments.latex:
        print((report.latex if arguments.latex else report.markdown)(arguments.out, arguments.run))
        return 0
    page = report.write(arguments.out, arguments.run)
    answer(arguments, {"report": page}, f"open the report: {page}")
    return 0


def _paper_table(arguments: argparse.Namespace) -> int:
    """Print one table for a paper, or the names of its columns."""
    from harness.report import page as report
    from harness.report import paper_table

    if arguments.columns == "help":
        return show([{"column": name} for name in paper_table.COLUMNS], arguments.json)
    columns = [name for name in arguments.columns.replace(" ", "").split(",") if name]
    scope = (arguments.run, arguments.dataset, arguments.protocol)
    print(report.table(arguments.out, columns, "latex" if arguments.latex else "markdown", *scope).strip())
    return 0


def tables(arguments: argparse.Namespace) -> int:
    """Describe the result tables, or every column of one."""
    from harness.storage import dictionary

    if arguments.name:
        return show(dictionary.columns(arguments.name), arguments.json)
    return show([{"table": name, "one row is": row} for name, row in dictionary.TABLES.items()], arguments.json)


def datasets(arguments: argparse.Namespace) -> int:
    """List the data sets, or show one with its files and protocols."""
    from harness import datasets
    from harness.cli import dataset_listing

    root = _root(arguments)
    if arguments.name:
        entries = [datasets.find(name) for name in datasets.expand(arguments.name)]
        if arguments.json:
            documents = [dataset_listing.described(entry, root) for entry in entries]
            document(documents if len(entries) > 1 else documents[0])
        else:
            print("\n\n".join("\n".join(dataset_listing.in_full(entry, root)) for entry in entries))
        return 0
    summaries = [dataset_listing.summary(entry, root) for entry in datasets.every()]
    if arguments.json:
        document(summaries)
        return 0
    show(dataset_listing.table(summaries), as_json=False)
    print("", *dataset_listing.remarks(summaries, root), sep="\n")
    return 0


def fetch(arguments: argparse.Namespace) -> int:
    """Download data sets; exit status 1 if a required file could not be fetched."""
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
    by_state = {name: [asdict(row) for row in rows if row.state == name] for name in ("fetched", "there", "failed")}
    answer(arguments, {"root": str(root)} | by_state, "\n".join(dataset_listing.of_fetch(entries, rows)))
    return int(any(row.state == "failed" and not row.optional for row in rows))


def _root(arguments: argparse.Namespace) -> Path:
    return Path(arguments.data_root or ".").absolute()


def specs(arguments: argparse.Namespace) -> int:
    """List the named evaluations."""
    return show([asdict(make()) | {"about": (make.__doc__ or "").strip()} for make in SPECS.values()], arguments.json)


def controls(arguments: argparse.Namespace) -> int:
    """List the controls: features without a language model, and those of untrained or shuffled variants."""
    from harness.features.controls import OF_A_MODEL, every

    return show([*(control.described for control in every()), *OF_A_MODEL], arguments.json)


def conform(arguments: argparse.Namespace) -> int:
    """Compare with recorded Brain-Score results; exit status 1 if a case differs."""
    from harness.conformance import compare as conform
    from harness.conformance import verdicts

    results = conform.run(arguments.folder)
    answer(arguments, [result.as_row() for result in results], "\n".join(verdicts.in_lines(results)))
    return int(any(result.fails for result in results))


def doctor(arguments: argparse.Namespace) -> int:
    """Check this machine; exit status 1 if a required component does not work."""
    from harness.cli import doctor

    rows = doctor.examine(arguments.data_root or ".")
    return show(rows, arguments.json) or int(any(row["state"] == "broken" for row in rows))


def cache(arguments: argparse.Namespace) -> int:
    """List, verify or clean up the stored units; `verify` returns exit status 1 if something is damaged."""
    from harness.storage.store import Store

    store = Store(arguments.out)
    if not store.fs.isdir(store.root):
        raise FileNotFoundError(f"no units under {arguments.out}: give the folder or URL that `run` got as --out.")
    return {"ls": _cache_ls, "verify": _cache_verify, "gc": _cache_gc}[arguments.what](store, arguments)


def _cache_ls(store: Any, arguments: argparse.Namespace) -> int:
    from harness.storage import inventory as cache

    units = cache.ls(store)
    if arguments.json:
        document([asdict(unit) for unit in units])
        return 0
    rows = [
        asdict(unit) | {"key": unit.key[:12], "created": unit.created[:16], "bytes": size(unit.bytes),
                        "runs": len(unit.runs)}
        for unit in units
    ]  # fmt: skip
    if rows:
        show(rows, as_json=False)
    print(f"{len(units)} units, {size(sum(unit.bytes for unit in units))} in {store.root}")
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
    content = {"units": n_units, "bytes": n_bytes, "corrupt": [vars(error) for error in corrupt], "tables": damaged}
    lines = [f"tables of {damage}. Repeat the command of that run to write them again." for damage in damaged]
    lines += [f"{error} The unit was removed; the next run computes it again." for error in corrupt]
    lines.append(f"{n_units} units verified, {size(n_bytes)}: {len(corrupt) or 'none'} corrupt")
    answer(arguments, content, "\n".join(lines))
    return int(bool(corrupt or damaged))


def _cache_gc(store: Any, arguments: argparse.Namespace) -> int:
    from harness.storage import inventory as cache

    files = cache.unused_files(store, unused=arguments.unused)
    if arguments.yes:
        cache.remove(store, files)
    lines = [f"{size(file.bytes):>9}  {file.path}: {file.why}" for file in files]
    total = f"{len(files)} file(s) or folder(s), {size(sum(file.bytes for file in files))}"
    lines.append(f"removed {total}" if arguments.yes else f"would remove {total}; --yes removes them")
    answer(arguments, {"removed": arguments.yes, "waste": [asdict(file) for file in files]}, "\n".join(lines))
    return 0
