"""A spec from beginning to end: what is there already is skipped, the rest runs, the tables are put together.

Every unit that the store does not hold runs on Ray: a model's actor reads the texts, and as soon as one is read its
scores are computed. What fails is written down and the rest goes on. Last, Ray Data puts the tables together.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

from harness import backends, provenance, quickstart, tables
from harness.plan import Failure, Plan, Watcher, make_plan, require_files
from harness.provenance import Account, Outcome
from harness.score_units import ScoreUnit
from harness.spec import EvaluationSpec
from harness.store import Store


def run(
    spec: EvaluationSpec,
    out: str,
    data_root: str | None = None,
    *,
    address: str | None = None,
    device: str = "auto",
    pinned: bool = True,
    allow_pickle: bool = False,
    watcher: Watcher | None = None,
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
        watcher: is told what happens.

    Returns:
        How it ended; a failing model does not stop the others.

    Raises:
        FileNotFoundError: if a file that a control needs is named and not there.
    """
    started, watcher, store = time.monotonic(), watcher or Watcher(), Store(out)
    require_files(spec)
    backends.require_installed(spec.backend)
    store.require_writable()
    store.sweep()
    if any(name.startswith("synthetic") for name in spec.datasets):
        _prepare_quickstart(spec, out, address, watcher)
    plan = make_plan(spec, out, data_root, pinned=pinned)
    for failure in plan.failures:
        watcher.failed(failure)
    pending = [unit for unit in plan.scores if not store.has("scores", unit.key)]
    watcher.planned(plan, pending)
    done, account = _compute(plan, pending, store, address, device, watcher, allow_pickle)
    outcome = Outcome(
        plan.run, len(plan.scores), account.n_scored, len(done) - account.n_scored, tuple(plan.failures),
        time.monotonic() - started,
    )  # fmt: skip
    if pending or plan.failures or not tables.holds(out, plan.run):
        from harness import actors, assemble

        watcher.busy("putting the tables together")
        actors.start(address)
        assemble.write(store, plan.run, done, provenance.rows(plan, outcome, done, store, account))
    return replace(outcome, seconds=time.monotonic() - started)


def _compute(
    plan: Plan,
    pending: list[ScoreUnit],
    store: Store,
    address: str | None,
    device: str,
    watcher: Watcher,
    allow_pickle: bool,
) -> tuple[list[ScoreUnit], Account]:
    """Compute what is pending, and give what is then done; what is neither done nor failed becomes a failure."""
    account = Account()
    if pending:
        from harness import actors
        from harness.schedule import Schedule

        actors.start(address)
        with _ended_by_sigterm():
            account = Schedule(plan, pending, store, device, watcher, allow_pickle).work()
    done = {unit.key: unit for unit in plan.scores if store.manifest("scores", unit.key)}
    known = {(failure.model, failure.dataset, failure.protocol) for failure in plan.failures}
    for unit in plan.scores:
        what = (unit.source.name, unit.dataset, unit.protocol.name)
        if unit.key not in done and what not in known:
            plan.failures.append(Failure("schedule", *what, "NeverRan", "the unit was planned and has no result"))
    return list(done.values()), account


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """SIGTERM ends a run as Ctrl-C does: what runs is given back, what is stored stays."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _prepare_quickstart(spec: EvaluationSpec, out: str, address: str | None, watcher: Watcher) -> None:
    folder = quickstart.folder_of(out)
    if not quickstart.is_built(folder):
        from harness import actors

        watcher.busy("building three tiny models and a recording with a known answer")
        actors.start(address)
        actors.prepare_quickstart(str(folder), spec.seed)
