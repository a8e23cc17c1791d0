"""What a run shows while it works: a bar per model on a terminal, one line per finished unit elsewhere."""

from __future__ import annotations

import logging
from collections import Counter
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from harness.runs.workload import Failure, ProgressListener, Workload
from harness.units.feature_units import FeatureUnit
from harness.units.score_units import ScoreUnit

logger = logging.getLogger(__name__)


class Display(ProgressListener):
    """A listener that people can look at; a context manager."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.bars: dict[str, TaskID] = {}
        self.said: set[tuple[str, str]] = set()
        self.run = ""
        self.progress = Progress(
            TextColumn("{task.description:<28.28}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[now]}", style="dim", markup=False),
            console=console,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> Display:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def busy(self, what: str) -> None:
        """Say what is going on."""
        self.console.print(f"{what} ...", style="dim", markup=False, highlight=False, soft_wrap=True)

    def planned(self, plan: Workload, pending: list[ScoreUnit]) -> None:
        """One bar per model; the controls share one."""
        self.run = plan.run
        if pending:
            reused, n = len(plan.scores) - len(pending), len(plan.recordings)
            self.console.print(
                f"run {plan.run}: {len(plan.scores)} scores of {len(plan.sources)} models and controls on "
                f"{n} data set{'s' * (n != 1)}; {reused} are there, {len(pending)} to compute",
                highlight=False,
                soft_wrap=True,
            )
        for source in plan.sources:
            for note in source.checkpoint.notes if source.kind == "model" and source.checkpoint else ():
                self.remarked(source.name, note)
        for name, total in Counter(_bar(unit) for unit in pending).items():
            self.bars[name] = self.progress.add_task(name, total=total, now="waits")

    def noted(self, model: str, what: str) -> None:
        """Beside the model's bar."""
        if not self.console.is_terminal:
            logger.info("run=%s model=%s now=%r", self.run, model, what)
        elif model in self.bars:
            self.progress.update(self.bars[model], now=what)

    def remarked(self, model: str, note: str) -> None:
        """One line."""
        self.console.print(f"note: {model}: {note}", markup=False, highlight=False, soft_wrap=True)

    def finished(self, unit: FeatureUnit | ScoreUnit, seconds: float) -> None:
        """Move the bar of the unit's model."""
        if isinstance(unit, ScoreUnit):
            what, dataset = f"scored {unit.dataset} {unit.protocol.name}", unit.dataset
        else:
            what, dataset = f"read {len(unit.stimuli)} stimuli, context {unit.protocol.context}", ""
        if self.console.is_terminal:
            self.progress.update(self.bars[_bar(unit)], advance=isinstance(unit, ScoreUnit), now=what)
        else:
            of = (self.run, unit.source.name, dataset or unit.protocol.context)
            logger.info("run=%s model=%s dataset=%s did=%r seconds=%.1f", *of, what, seconds)

    def found(self, unit: ScoreUnit) -> None:
        """Move the bar of the unit's model."""
        if self.console.is_terminal:
            self.progress.update(self.bars[_bar(unit)], advance=1, now="scored by another driver")

    def words(self, model: str, n_read: int, n_words: int) -> None:
        """A bar per model, in words."""
        if not self.console.is_terminal:
            logger.info("model=%s words=%d of=%d", model, n_read, n_words)
            return
        if model not in self.bars:
            self.bars[model] = self.progress.add_task(model, total=n_words, now="words")
        self.progress.update(self.bars[model], completed=n_read)

    def failed(self, failure: Failure) -> None:
        """One line that says what and why."""
        if (failure.model, failure.message) in self.said:  # one line for each thing that is wrong
            return
        self.said.add((failure.model, failure.message))
        where = " ".join(part for part in (failure.model, failure.dataset, failure.protocol) if part)
        message = failure.message.splitlines()[0] if failure.message else failure.exception
        self.console.print("failed", style="bold red", end=" ", highlight=False, soft_wrap=True)
        self.console.print(f"{where}: {message}", markup=False, highlight=False, soft_wrap=True)
        if failure.model in self.bars:
            self.progress.update(self.bars[failure.model], now="failed")


def _bar(unit: FeatureUnit | ScoreUnit) -> str:
    return unit.source.name if unit.source.checkpoint else "controls"
