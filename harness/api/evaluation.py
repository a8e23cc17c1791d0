"""`harness.evaluate`: score models on recordings, in this process."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from harness import plugins
from harness.api import given
from harness.api.results import Results
from harness.loading.in_memory import InMemory
from harness.names import unknown
from harness.protocol import Protocol
from harness.runs import pipeline
from harness.runs.outcome import Outcome
from harness.runs.pipeline import RunOptions
from harness.runs.workload import ProgressListener
from harness.spec import EvaluationSpec

_OF_SPEC = {field.name for field in fields(EvaluationSpec)} - {"name", "models", "datasets", "protocols", "controls"}
_OF_RUN = {field.name for field in fields(RunOptions)} - {"keep_going"}


def evaluate(
    model: Any,
    dataset: Any,
    protocol: str | Protocol | Sequence[str | Protocol] = ("strict", "paper"),
    *,
    controls: Sequence[str] | Mapping[str, Any] | None = None,
    metric: str | Callable[..., Any] | None = None,
    out: str | os.PathLike[str] | None = None,
    progress: bool = True,
    **options: Any,
) -> Results:
    """Score models on recordings, as `harness run`, in this process and without Ray.

    Args:
        model: a name in the table, a folder, a Hub id; (model, tokenizer) of transformers in memory; a function that
            returns these two; {name: (model, tokenizer)}; or a list of any of these.
        dataset: a name ("pereira2018"), "local:FOLDER", a folder as a Path, a `harness.records.Dataset`,
            {"stimuli": frame, "responses": frame, ...} with the tables of an own recording, or a list of any of these.
        protocol: "strict", "paper", "equal", "brainscore2026", a `Protocol`, or several.
        controls: names, in place of the default ones ([] for none); or {name: control}, beside the default ones: an
            array of (row, feature), one row per row of the recording or per stimulus, or a function from a `Dataset`
            to one.
        metric: of brain scores: a name, or a function from (row, neuroid) predictions and observations to (neuroid,)
            scores; None is the protocol's.
        out: folder or URL for units and tables, where a later call finds what is computed; None is a temporary folder,
            removed with the results.
        progress: whether to show progress bars.
        options: fields of `harness.spec.EvaluationSpec` (variants, seed, dtype, ...) and of
            `harness.runs.pipeline.RunOptions` (data_root, device, allow_pickle, ...).

    Returns:
        The tables of the run as pandas frames: `.model_scores`, `.layer_scores`, `.paired_tests`, ...; what failed
        while other scores were computed is in `.failures`, and in a warning.

    Raises:
        TypeError: if an option is unknown.
        ValueError: if a model, data set, protocol, control or metric is not usable, or nothing could be scored.
    """
    _require_known(options)
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="harness-")))
        models, in_memory = given.models(model, scratch / "models")
        metric_name, own_metrics = given.metric(metric)
        stack.enter_context(plugins.given("harness.metrics", own_metrics))
        own_controls = given.own_controls(controls) if isinstance(controls, Mapping) else {}
        stack.enter_context(plugins.given("harness.controls", own_controls))
        found = given.entries(dataset, scratch / "recordings")
        wanted = [protocol] if isinstance(protocol, str | Protocol) else protocol
        entries, protocols = given.with_protocols(found, wanted, metric_name)
        stack.enter_context(plugins.given("harness.datasets", entries))
        settings = _among(_OF_SPEC, options) | _dtype(in_memory, options.get("dtype", "auto"))
        spec = EvaluationSpec("evaluate", models, tuple(entries), protocols, **settings)  # type: ignore[arg-type]
        spec = _with_controls(spec, controls, own_controls)
        run_options = RunOptions(**({"data_root": os.environ.get("HARNESS_DATA")} | _among(_OF_RUN, options)))
        folder = None if out is not None else tempfile.TemporaryDirectory(prefix="harness-results-")
        place = folder.name if folder else os.fspath(out)  # type: ignore[arg-type]
        with _display(progress) as listener:
            outcome = pipeline.run(spec, place, run_options, listener=listener, in_process=in_memory)
        _report_failures(outcome)
    return Results(place, outcome.run, folder)


def _require_known(options: Mapping[str, Any]) -> None:
    for name in options:
        if name not in _OF_SPEC | _OF_RUN:
            raise TypeError(f"evaluate: {unknown('option', name, sorted(_OF_SPEC | _OF_RUN))}")


def _among(names: set[str], options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name in names}


def _dtype(in_memory: Mapping[str, InMemory], asked: str) -> dict[str, str]:
    """The precision of models in memory is that of their weights."""
    dtypes = {model.dtype for model in in_memory.values()}
    if asked != "auto":
        dtypes.add(asked)  # type: ignore[arg-type]
    if in_memory and len(dtypes) > 1:
        raise ValueError(f"models in memory have the types {', '.join(sorted(dtypes))}; evaluate them one by one.")
    return {"dtype": dtypes.pop()} if in_memory else {}


def _with_controls(
    spec: EvaluationSpec, controls: Sequence[str] | Mapping[str, Any] | None, own: Mapping[str, Any]
) -> EvaluationSpec:
    if controls is None or isinstance(controls, Mapping):
        return replace(spec, controls=(*spec.controls, *own))
    return replace(spec, controls=tuple(controls))


@contextlib.contextmanager
def _display(progress: bool) -> Iterator[ProgressListener]:
    """Progress bars, in a notebook too; what libraries print goes to stderr."""
    if not progress:
        yield ProgressListener()
        return
    from rich.console import Console

    from harness.runs.progress import Display

    with Display(Console(file=sys.stdout)) as display:
        yield display


def _report_failures(outcome: Outcome) -> None:
    if not outcome.failures:
        return
    first = outcome.failures[0]
    where = ", ".join(filter(None, (first.model, first.dataset, first.protocol)))
    message = f"{len(outcome.failures)} failed, first {where}: {first.exception}: {first.message}"
    if not outcome.n_computed + outcome.n_reused:
        raise ValueError(f"nothing could be scored: {message}")
    warnings.warn(f"{message} (all are in results.failures)", stacklevel=3)
