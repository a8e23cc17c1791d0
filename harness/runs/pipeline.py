"""Run a spec: compute the units that the store does not hold, and write the tables.

Units run on Ray: each model's actor extracts the features of the texts one after another, and scores are computed as
soon as their features are stored. Failures are recorded and do not stop the other units. At the end the tables are
assembled; if nothing is left to compute and the tables are small, Ray is not started.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from harness.checkpoints import checkpoints
from harness.extraction import backends
from harness.loading import memory
from harness.models import tiny
from harness.runs import provenance, scoring_forecast, stopping
from harness.runs.outcome import Account, Outcome
from harness.runs.scoring_forecast import Machine
from harness.runs.stopping import Stop
from harness.runs.workload import (
    Failure,
    ProgressListener,
    Workload,
    guarded,
    make_workload,
    require_files,
    require_known,
    require_model_and_data,
)
from harness.spec import EvaluationSpec
from harness.storage import tables, transfer
from harness.storage.store import Store
from harness.units import quickstart
from harness.units.score_units import ScoreUnit

if TYPE_CHECKING:
    from harness.loading.in_memory import InMemory


@dataclass(frozen=True)
class RunOptions:
    """How a spec is run; nothing here decides a score, except by what may be loaded.

    Attributes:
        data_root: folder of the recordings.
        device: "auto", "cpu" or "cuda": where models run.
        pinned: whether recordings must match the published checksums.
        allow_pickle: whether to load pickled weights if a checkpoint has no safetensors; they can run any code.
        usd_per_gpu_hour: price of a GPU hour in US dollars, for the column `usd` of the table `runs`.
        keep_going: whether unknown model names are recorded as failures while the other models run.
    """

    data_root: str | None = None
    device: str = "auto"
    pinned: bool = True
    allow_pickle: bool = False
    usd_per_gpu_hour: float | None = None
    keep_going: bool = False


DEFAULTS = RunOptions()


def run(
    spec: EvaluationSpec,
    out: str,
    options: RunOptions = DEFAULTS,
    *,
    address: str | None = None,
    listener: ProgressListener | None = None,
    in_process: Mapping[str, InMemory] | None = None,
) -> Outcome:
    """Run a spec and write its tables.

    Args:
        spec: the evaluation.
        out: folder or URL of units and tables.
        options: how it is run.
        address: address of a Ray cluster; None starts a local Ray.
        listener: receives the progress of the run.
        in_process: computes all units in this process, without Ray; the models that are in memory, by their names.

    Returns:
        The result; a failing model does not stop the others.

    Raises:
        FileNotFoundError: if the file given for a control does not exist.
        ValueError: if a model name is unknown, or no model or no recording can be loaded; nothing is computed.
    """
    started, listener = time.monotonic(), guarded(listener)
    require_files(spec)
    backends.require_installed(spec.backend)
    store = Store(transfer.absolute(out) if address else out)  # workers run in another working directory
    store.require_writable()
    store.sweep()
    with store.register_run():
        _prepare(spec, store, listener, starts_ray=in_process is None and not address)
        workload = _workload(spec, store, options, listener, in_process or {})
        pending = [unit for unit in workload.scores if not store.has("scores", unit.key, every_byte=True)]
        listener.planned(workload, pending)
        had_tables, n_units = tables.holds(store.out, workload.run), len(workload.scores)
        if not pending and not workload.failures and had_tables:
            return Outcome(workload.run, n_units, 0, n_units, (), time.monotonic() - started)
        join = partial(_join, address, store)
        if pending and in_process is None:
            join()
        with stopping.signals() as stop:
            done, account = _compute(
                workload, pending, store, options, listener, stop, in_process, is_remote=bool(address)
            )
            outcome = Outcome(
                workload.run, n_units, account.n_scored, len(done) - account.n_scored, tuple(workload.failures),
                time.monotonic() - started, account.was_stopped,
            )  # fmt: skip
            listener.busy("assembling the tables")
            _write_tables(workload, outcome, done, store, account, had_tables, join)
    return replace(outcome, seconds=time.monotonic() - started)


def _prepare(spec: EvaluationSpec, store: Store, listener: ProgressListener, *, starts_ray: bool) -> None:
    """Start a local Ray if there will be something to compute, and build the quickstart unless it is there."""
    is_quickstart = any(name.startswith("synthetic") for name in spec.datasets)
    folder = quickstart.folder_of(store.out) if is_quickstart else None
    if starts_ray and _begins(spec, store):
        listener.busy("starting Ray")
        _join(None, store)  # first, since what comes next needs the libraries that are imported meanwhile
    if folder and not quickstart.is_built(folder):
        listener.busy("building three tiny models and a synthetic recording")
        quickstart.build(str(folder), spec.seed)


def _begins(spec: EvaluationSpec, store: Store) -> bool:
    """Whether there will be something to compute: OUT has no scores, and no model is misspelt."""
    if store.has_any("scores"):
        return False
    with contextlib.suppress(checkpoints.UnknownModelError):
        for name in spec.models:
            if name not in tiny.MODELS:
                checkpoints.require_known(name)
        return True
    return False


def _workload(
    spec: EvaluationSpec, store: Store, options: RunOptions, listener: ProgressListener,
    in_memory: Mapping[str, InMemory],
) -> Workload:  # fmt: skip
    """List the workload and report its failures; ValueError if it cannot be run."""
    workload = make_workload(
        spec, store.out, options.data_root, pinned=options.pinned, allow_pickle=options.allow_pickle,
        in_memory={name: model.checkpoint for name, model in in_memory.items()},
    )  # fmt: skip
    for failure in workload.failures:
        listener.failed(failure)
    if not options.keep_going:
        require_known(workload)
        require_model_and_data(workload)
    return workload


def _join(address: str | None, store: Store) -> None:
    from harness.runs import ray_session

    ray_session.join(address, store)


def _write_tables(
    workload: Workload, outcome: Outcome, done: list[ScoreUnit], store: Store, account: Account, had_tables: bool,
    join: Callable[[], None],
) -> None:  # fmt: skip
    """Write the tables under a lock.

    If another driver has written them in the meantime they are identical, and not replaced since they may be in use.
    """
    from harness.runs import assemble

    with store.lock_tables(workload.run):
        if outcome.status != "done" or had_tables or not tables.holds(store.out, workload.run):
            assemble.write(store, workload.run, done, provenance.rows(workload, outcome, done, store, account), join)


def _compute(
    workload: Workload,
    pending: list[ScoreUnit],
    store: Store,
    options: RunOptions,
    listener: ProgressListener,
    stop: Stop,
    in_process: Mapping[str, InMemory] | None = None,
    *,
    is_remote: bool = False,
) -> tuple[list[ScoreUnit], Account]:
    """Compute the pending units and return all finished ones; units neither finished nor failed become failures."""
    account = Account()
    if pending and in_process is not None:
        from harness.runs.in_process import InProcess

        pending = scoring_forecast.admit(workload, pending, store, _this_machine(n_cores=1), listener)
        here = InProcess(workload, store, options.device, listener, in_process, options.allow_pickle)
        account = here.work(pending, stop)
    elif pending:
        from harness.runs import reservations
        from harness.runs.schedule import Schedule

        machine = reservations.for_scoring(options.device) if is_remote else _this_machine()
        pending = scoring_forecast.admit(workload, pending, store, machine, listener)
        account = Schedule(workload, pending, store, options.device, listener, options.allow_pickle).work(stop)
    computed = {unit.key for unit in pending}  # the checksums of the others were verified before the run
    done = {
        unit.key: unit for unit in workload.scores if store.has("scores", unit.key, every_byte=unit.key in computed)
    }  # fmt: skip
    failed = {(failure.model, failure.dataset, failure.protocol) for failure in workload.failures}
    absent = [(unit.source.name, unit.dataset, unit.protocol.name) for unit in workload.scores if unit.key not in done]
    remaining = [labels for labels in absent if labels not in failed]
    if not account.was_stopped:
        workload.failures += [
            Failure("schedule", *labels, "NeverRan", "the unit was scheduled but has no result") for labels in remaining
        ]
    was_stopped = account.was_stopped and bool(remaining)
    return list(done.values()), replace(account, was_stopped=was_stopped, usd_per_gpu_hour=options.usd_per_gpu_hour)


def _this_machine(n_cores: int = 0) -> Machine:
    return Machine(memory.free_bytes("cpu"), n_cores or os.cpu_count() or 1)
