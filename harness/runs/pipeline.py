"""A spec from beginning to end: what is there already is skipped, the rest runs, the tables are put together.

Every unit that the store does not hold runs on Ray: a model's actor reads the texts, and as soon as one is read its
scores are computed. What fails is written down and the rest goes on. Last, Ray Data puts the tables together.
"""

from __future__ import annotations

import time
from dataclasses import replace

from harness.extraction import backends
from harness.runs import provenance, stopping
from harness.runs.outcome import Account, Outcome
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


def run(
    spec: EvaluationSpec,
    out: str,
    data_root: str | None = None,
    *,
    address: str | None = None,
    device: str = "auto",
    pinned: bool = True,
    allow_pickle: bool = False,
    usd_per_gpu_hour: float | None = None,
    listener: ProgressListener | None = None,
    keep_going: bool = False,
) -> Outcome:
    """Run a spec and write its tables.

    Args:
        spec: what to measure.
        out: folder or URL of units and tables.
        data_root: folder of the recordings.
        address: a Ray cluster; None starts a local Ray.
        device: "auto", "cpu" or "cuda", where models are read.
        pinned: whether recordings must be the published files, by checksum.
        allow_pickle: whether pickled weights are loaded where a checkpoint has no safetensors: they can run any code.
        usd_per_gpu_hour: a price, for the column `usd` of the table `runs`.
        listener: is told what happens.
        keep_going: whether models whose names nobody knows are failures like others, and what is left is computed.

    Returns:
        How it ended; a failing model does not stop the others.

    Raises:
        FileNotFoundError: if a file that a control needs is named and not there.
        ValueError: if the name of a model is not known, or no model or no recording can be had; nothing is computed.
    """
    started, listener = time.monotonic(), guarded(listener)
    require_files(spec)
    backends.require_installed(spec.backend)
    store = Store(transfer.absolute(out) if address else out)  # workers have another working folder
    store.require_writable()
    store.sweep()
    with store.at_work():
        if any(name.startswith("synthetic") for name in spec.datasets):
            _prepare_quickstart(spec, store.out, address, listener)
        plan = _planned(spec, store, data_root, listener, pinned, allow_pickle, keep_going)
        pending = [unit for unit in plan.scores if not store.has("scores", unit.key, every_byte=True)]
        listener.planned(plan, pending)
        had_tables, n_units = tables.holds(store.out, plan.run), len(plan.scores)
        if not pending and not plan.failures and had_tables:
            return Outcome(plan.run, n_units, 0, n_units, (), time.monotonic() - started)
        _join(address, store)
        with stopping.signals() as stop:
            done, account = _compute(plan, pending, store, device, listener, allow_pickle, stop)
            account = replace(account, usd_per_gpu_hour=usd_per_gpu_hour)
            outcome = Outcome(
                plan.run, n_units, account.n_scored, len(done) - account.n_scored, tuple(plan.failures),
                time.monotonic() - started, account.was_stopped,
            )  # fmt: skip
            listener.busy("putting the tables together")
            _write_tables(plan, outcome, done, store, account, had_tables)
    return replace(outcome, seconds=time.monotonic() - started)


def _planned(
    spec: EvaluationSpec,
    store: Store,
    data_root: str | None,
    listener: ProgressListener,
    pinned: bool,
    allow_pickle: bool,
    keep_going: bool,
) -> Workload:
    """The plan, its failures told; ValueError where it is not worth beginning."""
    plan = make_workload(spec, store.out, data_root, pinned=pinned, allow_pickle=allow_pickle)
    for failure in plan.failures:
        listener.failed(failure)
    if not keep_going:
        require_known(plan)
        require_model_and_data(plan)
    return plan


def _join(address: str | None, store: Store) -> None:
    from harness.runs import ray_session

    ray_session.start(address)
    if address:
        ray_session.require_shared(store)


def _write_tables(
    plan: Workload, outcome: Outcome, done: list[ScoreUnit], store: Store, account: Account, had_tables: bool
) -> None:
    """Write the tables, alone at them.

    Where another driver has written them meanwhile they are the same, and somebody may be reading them.
    """
    from harness.runs import assemble

    with store.tables_of(plan.run):
        if outcome.status != "done" or had_tables or not tables.holds(store.out, plan.run):
            assemble.write(store, plan.run, done, provenance.rows(plan, outcome, done, store, account))


def _compute(
    plan: Workload,
    pending: list[ScoreUnit],
    store: Store,
    device: str,
    listener: ProgressListener,
    allow_pickle: bool,
    stop: Stop,
) -> tuple[list[ScoreUnit], Account]:
    """Compute what is pending, and give what is then done; what is neither done nor failed becomes a failure."""
    account = Account()
    if pending:
        from harness.runs.schedule import Schedule

        account = Schedule(plan, pending, store, device, listener, allow_pickle).work(stop)
    computed = {unit.key for unit in pending}  # the others were compared when the run was planned
    done = {
        unit.key: unit for unit in plan.scores if store.has("scores", unit.key, every_byte=unit.key in computed)
    }  # fmt: skip
    known = {(failure.model, failure.dataset, failure.protocol) for failure in plan.failures}
    absent = [(unit.source.name, unit.dataset, unit.protocol.name) for unit in plan.scores if unit.key not in done]
    left = [what for what in absent if what not in known]
    if not account.was_stopped:
        plan.failures += [
            Failure("schedule", *what, "NeverRan", "the unit was planned and has no result") for what in left
        ]
    return list(done.values()), replace(account, was_stopped=account.was_stopped and bool(left))


def _prepare_quickstart(spec: EvaluationSpec, out: str, address: str | None, listener: ProgressListener) -> None:
    folder = quickstart.folder_of(out)
    if not quickstart.is_built(folder):
        from harness.runs import actors, ray_session

        listener.busy("building three tiny models and a recording with a known answer")
        ray_session.start(address)
        actors.prepare_quickstart(str(folder), spec.seed)
