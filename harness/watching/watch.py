"""New checkpoints of a training, each evaluated once: look, run what is new, write down what came of it.

What was done stands in the table "watched", a row for each attempt, and in the tables of the run: whoever looks next,
after a restart or on another machine, finds it there, and nothing else is kept. Were that table lost, every unit would
still be found in the store. All checkpoints of a source are one run, so that its report shows the training; a run of
the watch that a newer one holds whole is removed.
"""

from __future__ import annotations

import io
import logging
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec
import pyarrow.parquet as pq

from harness.checkpoints import checkpoints, fingerprints
from harness.protocol import content_hash
from harness.spec import EvaluationSpec
from harness.statistics import scaling
from harness.storage import tables, transfer
from harness.storage.origin import now
from harness.watching import sources
from harness.watching.sources import QUIET_S, FoundCheckpoint

if TYPE_CHECKING:
    import pandas as pd

    from harness.runs.outcome import Outcome

logger = logging.getLogger(__name__)

TRIES = 3
# Checkpoints that are new and evaluated in one run: results are shown, and hooks called, after so many.
MOST_AT_ONCE = 40
# A score lower by more than this than at the checkpoint before is a drop.
DROP = 0.05


@dataclass(frozen=True)
class Event:
    """Something to tell. event: "result", "drop" or "parked". before: the score of the checkpoint one step earlier."""

    event: str
    model: str
    revision: str
    run: str
    reason: str = ""
    dataset: str = ""
    protocol: str = ""
    score: float | None = None
    before: float | None = None

    @property
    def text(self) -> str:
        """In a sentence."""
        if self.event == "parked":
            return f"{self.model} is given up: {self.reason}"
        what = f"{self.model}: {self.dataset} {self.protocol} {self.score:.3f}"
        return f"{what}, a drop from {self.before:.3f}" if self.event == "drop" else what


@dataclass
class WatchPass:
    """What one look found, and what came of it. waiting: not complete yet. done, parked: before this pass."""

    seen: int = 0
    done: int = 0
    waiting: list[FoundCheckpoint] = field(default_factory=list)
    evaluated: list[dict[str, Any]] = field(default_factory=list)
    failed: list[dict[str, Any]] = field(default_factory=list)
    parked: list[dict[str, Any]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    run: str = ""
    was_stopped: bool = False
    n_reported: int = 0


def _ignore(_: Event) -> None:
    """Do nothing."""


@dataclass(frozen=True)
class CheckpointWatcher:
    """A source that is watched.

    Attributes:
        source: as `trainings.look` takes it.
        spec: what each checkpoint is evaluated on; its models are evaluated beside the checkpoints, such as their base.
        out: folder or URL of units and tables.
        evaluate: runs a spec; `pipeline.run` with all but the spec given.
        tries: how often a checkpoint that fails is tried before it is parked. One whose files change is tried anew.
        quiet_s, marker: as `trainings.look` takes them.
        cache: folder for checkpoints of a bucket, which every node must see.
        drop: what counts as one, in units of the score.
        allow_pickle: whether folders whose weights are pickles only are evaluated.
        on_event: called with each event as soon as its results are stored.
    """

    source: str
    spec: EvaluationSpec
    out: str
    evaluate: Callable[[EvaluationSpec], Outcome]
    tries: int = TRIES
    quiet_s: float = QUIET_S
    marker: str = ""
    cache: str = ""
    drop: float = DROP
    allow_pickle: bool = False
    on_event: Callable[[Event], None] = _ignore

    @property
    def asked(self) -> str:
        """What decides a result beside the checkpoint."""
        return content_hash(asdict(self.spec))[:16]

    def once(self) -> WatchPass:
        """Look, and evaluate what is new, until nothing is; a checkpoint that fails is tried once.

        Raises:
            FileNotFoundError, ValueError, OSError: if the source cannot be looked at.
        """
        tried = self._tried()
        found = self._look(tried)
        this = WatchPass(len(found), waiting=[one for one, state, _ in found if state == "waits"])
        before = [row.folder for _, state, row in found if state == "evaluated"]
        this.done = len(before)
        fresh = [one for one, state, _ in found if state in {"new", "failed"}]
        while fresh and not this.was_stopped:
            now_tried, fresh = fresh[:MOST_AT_ONCE], fresh[MOST_AT_ONCE:]
            before += self._try(now_tried, before, tried, this)
        return this

    def listed(self) -> list[dict[str, Any]]:
        """What is there, in the order of steps: where, stamp, state ("new", "waits", or as in the table), reason."""
        return [
            {"where": one.where, "stamp": one.stamp, "state": state,
             "reason": one.waits_for if state == "waits" else getattr(row, "reason", "") or one.damage}
            for one, state, row in self._look(self._tried())
        ]  # fmt: skip

    def _look(self, tried: pd.DataFrame) -> list[tuple[FoundCheckpoint, str, Any]]:
        """The checkpoints of the source, each with its state and its last attempt."""
        last = {(row.where, row.stamp): row for row in tried.itertuples()}
        done = [row for row in last.values() if row.state == "evaluated"]
        for row in done:
            fingerprints.remember(row.folder, row.stamp, row.revision)
        known = frozenset(row.stamp for row in done)
        found = []
        seen = sources.list_checkpoints(
            self.source, quiet_s=self.quiet_s, marker=self.marker, known=known, allow_pickle=self.allow_pickle
        )
        for one in seen:
            row = last.get((one.where, one.stamp)) or self._same_content(one, done)
            state = str(row.state) if row else "new"
            if one.waits_for and state not in {"evaluated", "parked"}:
                state = "waits"
            found.append((one, state, row))
        return found

    def _same_content(self, one: FoundCheckpoint, done: list[Any]) -> Any:
        """The row of a checkpoint with the same content, evaluated before its files were touched or records added."""
        earlier = [row for row in done if row.where == one.where and row.revision.startswith("files-")]
        if not earlier or one.waits_for or one.damage or not Path(one.where).is_dir():
            return None
        try:
            revision = fingerprints.revision_of(Path(one.where))
        except (OSError, ValueError):
            return None
        return next((row for row in reversed(earlier) if row.revision.partition("+")[0] == revision), None)

    def _tried(self) -> pd.DataFrame:
        """All attempts at this source under this spec, oldest first."""
        try:
            rows = tables.read(self.out, "watched")
        except FileNotFoundError:
            rows = tables.schema("watched").empty_table().to_pandas()
        rows = rows[(rows["asked"] == self.asked) & (rows["source"] == self.source)]
        return rows.sort_values(["created", "attempt"], kind="stable")

    def _try(self, fresh: list[FoundCheckpoint], before: list[str], tried: pd.DataFrame, this: WatchPass) -> list[str]:
        """Evaluate some, beside all that were; gives the folders of those that came through."""
        folders, reasons = self._brought(fresh)
        revisions: dict[str, str] = {}
        models = dict.fromkeys((*self.spec.models, *before, *folders.values()))
        names = checkpoints.names_of(models)  # before any folder can disappear
        known_as = {where: names[folder] for where, folder in folders.items()}
        if folders:
            outcome = self.evaluate(replace(self.spec, models=tuple(models)))
            this.run, this.was_stopped = outcome.run, outcome.was_stopped
            if this.was_stopped:  # what it computed is stored, and found by the next pass
                return []
            reasons |= _reasons(known_as, outcome)
            rows = tables.read(self.out, "model_properties", outcome.run)
            revisions = dict(zip(rows["model"], rows["revision"], strict=True))
        rows = [
            self._row(one, folders.get(one.where, ""), known_as.get(one.where), revisions, reasons, tried, this)
            for one in fresh
        ]
        _add(self.out, rows)
        for row in rows:
            {"evaluated": this.evaluated, "failed": this.failed, "parked": this.parked}[row["state"]].append(row)
            logger.info("model=%s revision=%s is=%s why=%r", row["model"], row["revision"], row["state"], row["reason"])
        this.events += [Event("parked", row["model"], row["revision"], this.run, row["reason"]) for row in this.parked
                        if row in rows]  # fmt: skip
        if folders:
            _supersede(self.out, {*tried["evaluated_in"], *(row["evaluated_in"] for row in this.evaluated)}, this.run)
            evaluated = {row["model"]: row["revision"] for row in this.evaluated if row in rows}
            this.events += self._results(evaluated, this, tried)
        self._report(this)
        return [row["folder"] for row in this.evaluated if row in rows]

    def _brought(self, fresh: list[FoundCheckpoint]) -> tuple[dict[str, str], dict[str, str]]:
        """By place: the folder (or name) to read it from, or the reason why there is none."""
        folders, reasons = {}, {}
        for one in fresh:
            if one.damage:
                reasons[one.where] = one.damage
                continue
            try:
                folders[one.where] = sources.download(one, Path(self.cache))
            except Exception as error:  # noqa: BLE001 - the library of a remote raises what it likes
                reasons[one.where] = f"{type(error).__name__}: {error}"
        return folders, reasons

    def _row(
        self, one: FoundCheckpoint, folder: str, known_as: str | None, revisions: dict[str, str],
        reasons: dict[str, str], tried: pd.DataFrame, this: WatchPass,
    ) -> dict[str, Any]:  # fmt: skip
        model, reason = known_as or checkpoints.name_of(one.model), reasons.get(one.where, "")
        if not reason and model not in revisions:
            reason = "it is in no table of the run that was to evaluate it"
        attempt = 1 + int(((tried["where"] == one.where) & (tried["stamp"] == one.stamp)).sum())
        state = "evaluated" if not reason else "failed" if attempt < self.tries else "parked"
        return {
            "created": now(), "source": self.source, "asked": self.asked, "model": model,
            "revision": revisions.get(model, ""), "where": one.where, "stamp": one.stamp, "folder": folder,
            "attempt": attempt, "state": state, "reason": reason, "evaluated_in": this.run,
        }  # fmt: skip

    def _results(self, evaluated: dict[str, str], this: WatchPass, tried: pd.DataFrame) -> Iterator[Event]:
        """Scores of new checkpoints (model -> revision), and those that dropped below the checkpoint one step before.

        That checkpoint may have been deleted since; its score is then read from an earlier run.
        """
        history = History(self.out, this.run, tried)
        for (dataset, protocol), scores in history.scores_of(this.run).items():
            for model in (model for model in scores if model in evaluated):
                before = history.one_before(model, (dataset, protocol))
                details = (model, evaluated[model], this.run, "", dataset, protocol, scores[model], before)
                yield Event("result", *details)
                if before is not None and scores[model] < before - self.drop:
                    yield Event("drop", *details)

    def _report(self, this: WatchPass) -> None:
        """Pass new events to `on_event`; its exceptions are logged and never end the watch."""
        for event in this.events[this.n_reported :]:
            this.n_reported += 1
            try:
                self.on_event(event)
            except Exception as error:  # noqa: BLE001 - a hook, or a closed terminal
                logger.warning("event=%s model=%s handler failed (%s)", event.event, event.model, type(error).__name__)


class History:
    """Scores of a training's checkpoints over the runs that evaluated them; each run's tables are read once, if needed.

    Args:
        out: folder or URL of tables.
        run: the newest run.
        tried: rows of the table `watched`.
    """

    def __init__(self, out: str, run: str, tried: pd.DataFrame) -> None:
        done = tried[tried["state"] == "evaluated"]
        self.out, self.run = out, run
        self.models, self.runs = list(dict.fromkeys(done["model"])), list(dict.fromkeys(done["evaluated_in"]))
        self._scores: dict[str, dict[tuple[str, str], dict[str, float]]] = {}

    def scores_of(self, run: str) -> dict[tuple[str, str], dict[str, float]]:
        """(data set, protocol) -> model -> score."""
        if run not in self._scores:
            brain, reading = (tables.read(self.out, table, run) for table in ("model_scores", "reading_scores"))
            self._scores[run] = {
                (str(dataset), str(protocol)): dict(zip(rows["model"], rows["r"], strict=True))
                for frame in (brain[brain["target"] == "all"], reading)
                for (dataset, protocol), rows in frame[frame["kind"] == "model"].groupby(["dataset", "protocol"])
            }
        return self._scores[run]

    def one_before(self, model: str, question: tuple[str, str]) -> float | None:
        """The score of the same training's checkpoint one step before a model; None if there is none."""
        current = self.scores_of(self.run)[question]
        before = _step_before(model, [*current, *self.models])
        if before is None or before in current:
            return current.get(before or "")
        for run in reversed([run for run in self.runs if run != self.run]):
            try:
                found = self.scores_of(run).get(question, {}).get(before)
            except ValueError as error:  # damaged tables
                logger.warning("run=%s is skipped: %s", run, error)
                continue
            if found is not None:
                return found
        return None


def _step_before(model: str, names: list[str]) -> str | None:
    """The name of the same training's checkpoint one step before a model; None if there is none."""
    own = scaling.step_of(model)
    steps = {name: scaling.step_of(name) for name in names}
    earlier = [
        (step[1], name) for name, step in steps.items() if step and own and step[0] == own[0] and step[1] < own[1]
    ]
    return max(earlier)[1] if earlier else None


def _reasons(known_as: dict[str, str], outcome: Outcome) -> dict[str, str]:
    """By place, the first thing that went wrong with a checkpoint or its twin.

    Raises:
        ValueError: if a data set cannot be had: then nothing is known of any checkpoint.
    """
    first: dict[str, str] = {}
    for failure in outcome.failures:
        said = f"{failure.exception}: {failure.message.splitlines()[0] if failure.message else ''}"
        if not failure.model:
            raise ValueError(f"{failure.dataset} cannot be had, so no checkpoint is written down as evaluated. {said}")
        first.setdefault(failure.model.partition(":")[0], said)
    return {where: first[name] for where, name in known_as.items() if name in first}


def _add(out: str, rows: list[dict[str, Any]]) -> None:
    """A file of attempts: written aside and moved, so that it is whole or absent."""
    fs, root = fsspec.core.url_to_fs(out)
    content = io.BytesIO()
    pq.write_table(tables.rows_to_arrow("watched", rows), content)
    folder, name = f"{root}/tables/watched", f"{now().replace(':', '')}-{uuid.uuid4().hex[:8]}.parquet"
    transfer.retry(fs.makedirs, folder, exist_ok=True)
    transfer.retry(fs.pipe_file, f"{folder}/.{name}.aside", content.getvalue())
    transfer.retry(fs.mv, f"{folder}/.{name}.aside", f"{folder}/{name}")


def _supersede(out: str, runs: set[str], by: str) -> None:
    """Remove earlier runs of the watch whose every score another one holds too."""
    units = tables.read(out, "units", None, ["run", "kind", "key"])
    keys = units[units["kind"] == "scores"].groupby("run")["key"].agg(set)
    for run in runs - {by, ""}:
        if run in keys and by in keys and keys[run] <= keys[by]:
            tables.remove(out, run)
