"""Watch a training: list its checkpoints, evaluate each new one once, and record the result.

The only state is the table `watched`, with one row per attempt, and the tables of the runs, so that a watch resumes
after a restart or on another machine. If that table is lost, all units are still found in the store. All checkpoints
of a source are evaluated in one run, so that its report shows the training curve; an earlier run of the watch whose
scores are all contained in a newer run is removed.
"""

from __future__ import annotations

import io
import logging
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec
import pyarrow.parquet as pq

from harness.checkpoints import checkpoints, fingerprints
from harness.models import training_steps
from harness.protocol import content_hash
from harness.spec import EvaluationSpec
from harness.storage import tables, transfer
from harness.storage.origin import now
from harness.watching import sources
from harness.watching.sources import QUIET_S, FoundCheckpoint

if TYPE_CHECKING:
    import pandas as pd

    from harness.runs.outcome import Outcome

logger = logging.getLogger(__name__)

TRIES = 3
# New checkpoints evaluated in one run; after each such run results are reported and hooks called.
MOST_AT_ONCE = 40
# A score lower than the previous checkpoint's by more than this is a drop.
DROP = 0.05


@dataclass(frozen=True)
class Event:
    """An event to report. event: "result", "drop" or "parked". before: the score of the previous checkpoint."""

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
        """The event as a sentence."""
        if self.event == "parked":
            return f"{self.model} is parked: {self.reason}"
        result = f"{self.model}: {self.dataset} {self.protocol} {self.score:.3f}"
        return f"{result}, a drop from {self.before:.3f}" if self.event == "drop" else result


@dataclass
class WatchPass:
    """Result of one pass over a source.

    Attributes:
        seen: number of checkpoints in the source.
        done: number of checkpoints evaluated before this pass.
        waiting: checkpoints that are not complete yet.
        evaluated: rows of `watched` for the checkpoints evaluated in this pass.
        failed: rows for those that failed and will be retried.
        parked: rows for those parked in this pass.
        events: results, drops and parked checkpoints of this pass.
        run: name of the newest run.
        was_stopped: whether the pass was stopped before it was done.
        n_reported: number of events already passed to `on_event`.
    """

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
    """Watches a source and evaluates its new checkpoints.

    Attributes:
        source: as for `sources.list_checkpoints`.
        spec: the evaluation of each checkpoint; its models, such as the base model, are evaluated in the same run.
        out: folder or URL of units and tables.
        evaluate: runs a spec; `pipeline.run` with all arguments but the spec.
        tries: attempts before a failing checkpoint is parked; one whose files change starts again.
        quiet_s: as for `sources.list_checkpoints`.
        marker: as for `sources.list_checkpoints`.
        cache: folder for checkpoints downloaded from a bucket, visible on every node.
        drop: decrease in score that counts as a drop.
        allow_pickle: whether to evaluate checkpoints with pickled weights only.
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
    def spec_hash(self) -> str:
        """Hash of the spec: attempts under another spec are not considered."""
        return content_hash(self.spec.content)[:16]

    def once(self) -> WatchPass:
        """Make one pass: evaluate all new checkpoints, and retry each failed one once.

        Raises:
            FileNotFoundError, ValueError, OSError: if the source cannot be listed.
        """
        attempts = self._attempts()
        found = self._list(attempts)
        result = WatchPass(len(found), waiting=[checkpoint for checkpoint, state, _ in found if state == "waits"])
        folders = [row.folder for _, state, row in found if state == "evaluated"]
        result.done = len(folders)
        new = [checkpoint for checkpoint, state, _ in found if state in {"new", "failed"}]
        while new and not result.was_stopped:
            batch, new = new[:MOST_AT_ONCE], new[MOST_AT_ONCE:]
            folders += self._try(batch, folders, attempts, result)
        return result

    def listed(self) -> list[dict[str, Any]]:
        """List the checkpoints in the order of their steps, without evaluating any.

        Returns:
            Rows with where, fingerprint, state ("new", "waits", or as in the table `watched`) and reason.
        """
        return [
            {"where": checkpoint.where, "fingerprint": checkpoint.fingerprint, "state": state,
             "reason": checkpoint.waits_for if state == "waits" else getattr(row, "reason", "") or checkpoint.damage}
            for checkpoint, state, row in self._list(self._attempts())
        ]  # fmt: skip

    def _list(self, attempts: pd.DataFrame) -> list[tuple[FoundCheckpoint, str, Any]]:
        """Return the checkpoints of the source, each with its state and its last attempt."""
        last = {(row.where, row.fingerprint): row for row in attempts.itertuples()}
        evaluated = [row for row in last.values() if row.state == "evaluated"]
        for row in evaluated:
            fingerprints.remember(row.folder, row.fingerprint, row.revision)
        known = frozenset(row.fingerprint for row in evaluated)
        checkpoints_in_source = sources.list_checkpoints(
            self.source, quiet_s=self.quiet_s, marker=self.marker, known=known, allow_pickle=self.allow_pickle
        )
        found = []
        for checkpoint in checkpoints_in_source:
            row = last.get((checkpoint.where, checkpoint.fingerprint)) or self._same_content(checkpoint, evaluated)
            state = str(row.state) if row else "new"
            if checkpoint.waits_for and state not in {"evaluated", "parked"}:
                state = "waits"
            found.append((checkpoint, state, row))
        return found

    def _same_content(self, checkpoint: FoundCheckpoint, evaluated: list[Any]) -> Any:
        """Return the row of an earlier evaluation of the same content, whose files were only touched or added to."""
        earlier = [row for row in evaluated if row.where == checkpoint.where and row.revision.startswith("files-")]
        if not earlier or checkpoint.waits_for or checkpoint.damage or not Path(checkpoint.where).is_dir():
            return None
        try:
            revision = fingerprints.revision_of(Path(checkpoint.where))
        except (OSError, ValueError):
            return None
        return next((row for row in reversed(earlier) if row.revision.partition("+")[0] == revision), None)

    def _attempts(self) -> pd.DataFrame:
        """Read all attempts at this source under this spec, oldest first."""
        try:
            rows = tables.read(self.out, "watched")
        except FileNotFoundError:
            rows = tables.schema("watched").empty_table().to_pandas()
        rows = rows[(rows["spec_hash"] == self.spec_hash) & (rows["source"] == self.source)]
        return rows.sort_values(["created", "attempt"], kind="stable")

    def _try(
        self, batch: list[FoundCheckpoint], earlier: list[str], attempts: pd.DataFrame, result: WatchPass
    ) -> list[str]:
        """Evaluate new checkpoints together with those evaluated before.

        Args:
            batch: new checkpoints.
            earlier: folders of the checkpoints evaluated before.
            attempts: rows of `watched` from before this pass.
            result: result of this pass; updated.

        Returns:
            Folders of the new checkpoints that were evaluated.
        """
        folders, reasons = self._download(batch)
        revisions: dict[str, str] = {}
        models = dict.fromkeys((*self.spec.models, *earlier, *folders.values()))
        names = checkpoints.names_of(models)  # before any folder can disappear
        known_as = {where: names[folder] for where, folder in folders.items()}
        if folders:
            outcome = self.evaluate(replace(self.spec, models=tuple(models)))
            result.run, result.was_stopped = outcome.run, outcome.was_stopped
            if result.was_stopped:  # finished units are stored, and the next pass finds them
                return []
            reasons |= _reasons(known_as, outcome)
            properties = tables.read(self.out, "model_properties", outcome.run)
            revisions = dict(zip(properties["model"], properties["revision"], strict=True))
        rows = []
        for checkpoint in batch:
            where = checkpoint.where
            model = known_as.get(where) or checkpoints.name_of(checkpoint.model)
            reason, revision = reasons.get(where, ""), revisions.get(model, "")
            if not reason and model not in revisions:
                reason = "the tables of the run that should have evaluated it do not contain it"
            rows.append(self._row(checkpoint, model, revision, folders.get(where, ""), reason, result.run, attempts))
        self._record(rows, result)
        new = {row["model"]: row["revision"] for row in rows if row["state"] == "evaluated"}
        if folders:
            _supersede(
                self.out, {*attempts["evaluated_in"], *(row["evaluated_in"] for row in result.evaluated)}, result.run
            )
            result.events += self._results(new, result.run, attempts)
        self._report(result)
        return [row["folder"] for row in rows if row["state"] == "evaluated"]

    def _record(self, rows: list[dict[str, Any]], result: WatchPass) -> None:
        """Write attempts to the table `watched`, and add them to the result of the pass."""
        _add(self.out, rows)
        for row in rows:
            {"evaluated": result.evaluated, "failed": result.failed, "parked": result.parked}[row["state"]].append(row)
            logger.info("model=%s revision=%s is=%s why=%r", row["model"], row["revision"], row["state"], row["reason"])
        result.events += [
            Event("parked", row["model"], row["revision"], result.run, row["reason"])
            for row in rows if row["state"] == "parked"
        ]  # fmt: skip

    def _download(self, batch: list[FoundCheckpoint]) -> tuple[dict[str, str], dict[str, str]]:
        """Return where -> folder (or Hub name) of the usable checkpoints, and where -> reason for the others."""
        folders, reasons = {}, {}
        for checkpoint in batch:
            if checkpoint.damage:
                reasons[checkpoint.where] = checkpoint.damage
                continue
            try:
                folders[checkpoint.where] = sources.download(checkpoint, Path(self.cache))
            except Exception as error:  # noqa: BLE001 - filesystem libraries raise exceptions of their own
                reasons[checkpoint.where] = f"{type(error).__name__}: {error}"
        return folders, reasons

    def _row(
        self, checkpoint: FoundCheckpoint, model: str, revision: str, folder: str, reason: str, run: str,
        attempts: pd.DataFrame,
    ) -> dict[str, Any]:  # fmt: skip
        """Return the row of `watched` for an attempt; `reason` is "" if it succeeded."""
        is_same = (attempts["where"] == checkpoint.where) & (attempts["fingerprint"] == checkpoint.fingerprint)
        attempt = 1 + int(is_same.sum())
        state = "evaluated" if not reason else "failed" if attempt < self.tries else "parked"
        return {
            "created": now(), "source": self.source, "spec_hash": self.spec_hash, "model": model, "revision": revision,
            "where": checkpoint.where, "fingerprint": checkpoint.fingerprint, "folder": folder, "attempt": attempt,
            "state": state, "reason": reason, "evaluated_in": run,
        }  # fmt: skip

    def _results(self, evaluated: dict[str, str], run: str, attempts: pd.DataFrame) -> Iterator[Event]:
        """Yield the scores of new checkpoints (model -> revision), and drops below the checkpoint one step before.

        If the previous checkpoint has been deleted, its score is read from an earlier run.
        """
        history = History(self.out, run, attempts)
        for (dataset, protocol), scores in history.scores_of(run).items():
            for model in (model for model in scores if model in evaluated):
                before = history.one_before(model, (dataset, protocol))
                details = (model, evaluated[model], run, "", dataset, protocol, scores[model], before)
                yield Event("result", *details)
                if before is not None and scores[model] < before - self.drop:
                    yield Event("drop", *details)

    def _report(self, result: WatchPass) -> None:
        """Pass new events to `on_event`; its exceptions are logged and never end the watch."""
        for event in result.events[result.n_reported :]:
            result.n_reported += 1
            try:
                self.on_event(event)
            except Exception as error:  # noqa: BLE001 - a hook, or a closed terminal
                logger.warning("event=%s model=%s handler failed (%s)", event.event, event.model, type(error).__name__)


class History:
    """Scores of a training's checkpoints over the runs that evaluated them; each run's tables are read once, if needed.

    Args:
        out: folder or URL of tables.
        run: the newest run.
        attempts: rows of the table `watched`.
    """

    def __init__(self, out: str, run: str, attempts: pd.DataFrame) -> None:
        evaluated = attempts[attempts["state"] == "evaluated"]
        self.out, self.run = out, run
        self.models, self.runs = list(dict.fromkeys(evaluated["model"])), list(dict.fromkeys(evaluated["evaluated_in"]))
        self._scores: dict[str, dict[tuple[str, str], dict[str, float]]] = {}

    def scores_of(self, run: str) -> dict[tuple[str, str], dict[str, float]]:
        """Return (data set, protocol) -> model -> score of a run."""
        if run not in self._scores:
            brain, reading = (tables.read(self.out, table, run) for table in ("model_scores", "reading_scores"))
            self._scores[run] = {
                (str(dataset), str(protocol)): dict(zip(rows["model"], rows["r"], strict=True))
                for frame in (brain[brain["target"] == "all"], reading)
                for (dataset, protocol), rows in frame[frame["kind"] == "model"].groupby(["dataset", "protocol"])
            }
        return self._scores[run]

    def one_before(self, model: str, question: tuple[str, str]) -> float | None:
        """Return the previous checkpoint's score on a question (data set, protocol); None if there is none."""
        current = self.scores_of(self.run)[question]
        before = _step_before(model, [*current, *self.models])
        if before is None or before in current:
            return current.get(before or "")
        for run in reversed([run for run in self.runs if run != self.run]):
            try:
                score = self.scores_of(run).get(question, {}).get(before)
            except ValueError as error:  # damaged tables
                logger.warning("run=%s is skipped: %s", run, error)
                continue
            if score is not None:
                return score
        return None


def _step_before(model: str, names: list[str]) -> str | None:
    """Return the name of the same training's previous checkpoint; None if there is none."""
    own = training_steps.of_name(model)
    steps = {name: training_steps.of_name(name) for name in names}
    earlier = [
        (other.step, name) for name, other in steps.items()
        if other and own and other[:2] == own[:2] and other.step < own.step
    ]  # fmt: skip
    return max(earlier)[1] if earlier else None


def _reasons(known_as: dict[str, str], outcome: Outcome) -> dict[str, str]:
    """Return where -> first failure of a checkpoint or one of its variants (untrained, shuffled, chat).

    Raises:
        ValueError: if a data set cannot be loaded, since then no checkpoint has been fully evaluated.
    """
    first: dict[str, str] = {}
    for failure in outcome.failures:
        reason = f"{failure.exception}: {failure.message.splitlines()[0] if failure.message else ''}"
        if not failure.model:
            raise ValueError(f"could not load {failure.dataset}, so no checkpoint counts as evaluated. {reason}")
        first.setdefault(failure.model.partition(":")[0], reason)
    return {where: first[name] for where, name in known_as.items() if name in first}


def _add(out: str, rows: list[dict[str, Any]]) -> None:
    """Add a file of attempts to the table `watched`; it is renamed into place, so that it is complete or absent."""
    fs, root = fsspec.core.url_to_fs(out)
    content = io.BytesIO()
    pq.write_table(tables.rows_to_arrow("watched", rows), content)
    folder, name = f"{root}/tables/watched", f"{now().replace(':', '')}-{uuid.uuid4().hex[:8]}.parquet"
    transfer.retry(fs.makedirs, folder, exist_ok=True)
    transfer.retry(fs.pipe_file, f"{folder}/.{name}.aside", content.getvalue())
    transfer.retry(fs.mv, f"{folder}/.{name}.aside", f"{folder}/{name}")


def _supersede(out: str, runs: set[str], by: str) -> None:
    """Remove earlier runs of the watch whose scores are all contained in the run `by`."""
    units = tables.read(out, "units", None, ["run", "kind", "key"])
    keys = units[units["kind"] == "scores"].groupby("run")["key"].agg(set)
    for run in runs - {by, ""}:
        if run in keys and by in keys and keys[run] <= keys[by]:
            tables.remove(out, run)
