"""Progress of a run: one bar per model on a terminal, otherwise one log line per finished unit."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from harness.cluster import scoring_view
from harness.cluster.scoring import ScoringDemand
from harness.runs.workload import Failure, ProgressListener, Workload
from harness.units.feature_units import FeatureUnit
from harness.units.localiser_units import LocaliserUnit
from harness.units.score_units import ScoreUnit

logger = logging.getLogger(__name__)


class Display(ProgressListener):
    """A progress listener that writes to a console; use it as a context manager."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.bars: dict[str, TaskID] = {}
        self.reported: set[tuple[str, str]] = set()
        self.run = ""
        name = TextColumn("{task.description:<28.28}", markup=False)
        now = TextColumn("{task.fields[now]}", style="dim", markup=False)
        columns = (name, BarColumn(bar_width=24), MofNCompleteColumn(), TimeElapsedColumn(), now)
        self.progress = Progress(*columns, console=console, disable=not console.is_terminal)

    def __enter__(self) -> Display:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def busy(self, activity: str) -> None:
        """Print what is being done."""
        self.console.print(f"{activity} ...", style="dim", markup=False, highlight=False, soft_wrap=True)

    def planned(self, workload: Workload, pending: list[ScoreUnit]) -> None:
        """Print the size of the run and add one bar per model; the controls share one bar."""
        self.run = workload.run
        if pending:
            n_stored, n_datasets = len(workload.scores) - len(pending), len(workload.recordings)
            self.console.print(
                f"run {workload.run}: {len(workload.scores)} scores of {len(workload.sources)} models and controls on "
                f"{n_datasets} data set{'s' * (n_datasets != 1)}; {n_stored} in the store, {len(pending)} to compute",
                highlight=False,
                soft_wrap=True,
            )
        for source in workload.sources:
            for note in source.checkpoint.notes if source.kind == "model" and source.checkpoint else ():
                self.remarked(source.name, note)
        for name, total in Counter(_bar(unit) for unit in pending).items():
            self.bars[name] = self.progress.add_task(name, total=total, now="waiting")

    def forecast(self, scoring: Sequence[ScoringDemand]) -> None:
        """Print the memory and time of scores and ceilings that take a minute or a gigabyte, and their sum."""
        for line in scoring_view.in_words(scoring):
            self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def ceiling(self, dataset: str, protocol: str, n_done: int, n_pools: int) -> None:
        """Show how far the ceiling of a data set is: a bar, or one log line per pool."""
        name = f"ceiling {dataset} {protocol}"
        if not self.console.is_terminal:
            logger.info("run=%s dataset=%s protocol=%s ceiling=%d of=%d", self.run, dataset, protocol, n_done, n_pools)
            return
        if name not in self.bars:
            self.bars[name] = self.progress.add_task(name, total=n_pools, now="pools of subjects")
        self.progress.update(self.bars[name], completed=n_done, total=n_pools)

    def noted(self, model: str, state: str) -> None:
        """Show a model's state beside its bar, or log it."""
        if not self.console.is_terminal:
            logger.info("run=%s model=%s now=%r", self.run, model, state)
        elif model in self.bars:
            self.progress.update(self.bars[model], now=state)

    def remarked(self, model: str, note: str) -> None:
        """Print one line."""
        self.console.print(f"note: {model}: {note}", markup=False, highlight=False, soft_wrap=True)

    def finished(self, unit: FeatureUnit | LocaliserUnit | ScoreUnit, seconds: float) -> None:
        """Advance the bar of the unit's model."""
        if isinstance(unit, ScoreUnit):
            action, dataset = f"scored {unit.dataset} {unit.protocol.name}", unit.dataset
        else:
            what = "contrast texts" if isinstance(unit, LocaliserUnit) else f"stimuli, context {unit.protocol.context}"
            action, dataset = f"extracted {len(unit.stimuli)} {what}", ""
        if self.console.is_terminal and _bar(unit) in self.bars:  # a model may be extracted for its chosen units alone
            self.progress.update(self.bars[_bar(unit)], advance=isinstance(unit, ScoreUnit), now=action)
        elif not self.console.is_terminal:
            labels = (self.run, unit.source.name, dataset or unit.protocol.context)
            logger.info("run=%s model=%s dataset=%s did=%r seconds=%.1f", *labels, action, seconds)

    def found(self, unit: ScoreUnit) -> None:
        """Advance the bar of the unit's model."""
        if self.console.is_terminal:
            self.progress.update(self.bars[_bar(unit)], advance=1, now="scored by another driver")

    def words(self, model: str, n_read: int, n_words: int) -> None:
        """Update the model's bar, which counts words."""
        if not self.console.is_terminal:
            logger.info("model=%s words=%d of=%d", model, n_read, n_words)
            return
        if model not in self.bars:
            self.bars[model] = self.progress.add_task(model, total=n_words, now="words")
        self.progress.update(self.bars[model], completed=n_read)

    def failed(self, failure: Failure) -> None:
        """Print one line with the unit and the reason."""
        if (failure.model, failure.message) in self.reported:  # the same error in several units is printed once
            return
        self.reported.add((failure.model, failure.message))
        unit = " ".join(filter(None, (failure.model, failure.dataset, failure.protocol)))
        message = failure.message.splitlines()[0] if failure.message else failure.exception
        self.console.print("failed", style="bold red", end=" ", highlight=False, soft_wrap=True)
        self.console.print(f"{unit}: {message}", markup=False, highlight=False, soft_wrap=True)
        if failure.model in self.bars:
            self.progress.update(self.bars[failure.model], now="failed")


def _bar(unit: FeatureUnit | LocaliserUnit | ScoreUnit) -> str:
    return unit.source.name if unit.source.checkpoint else "controls"
