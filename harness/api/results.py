"""The tables of a run as pandas frames."""

from __future__ import annotations

from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from harness.names import unknown

if TYPE_CHECKING:
    import pandas as pd


class Results:
    """The tables of one run: `results.model_scores`, or `results["model_scores"]`, is a frame, read at first use.

    `list(results)` names the tables; `harness tables NAME` describes their columns. In a notebook the overall scores of
    all sources are shown.

    Attributes:
        out: folder or URL of the tables and stored units.
        run: name of the run.
    """

    def __init__(self, out: str, run: str, folder: TemporaryDirectory[str] | None = None) -> None:
        """`folder` is a temporary OUT, removed with the results."""
        self.out, self.run, self._folder = out, run, folder
        self._frames: dict[str, pd.DataFrame] = {}

    def __getitem__(self, table: str) -> pd.DataFrame:
        from harness.storage import tables

        if table not in self:
            raise unknown("table", table, self)
        if table not in self._frames:
            self._frames[table] = tables.read(self.out, table, self.run)
        return self._frames[table]

    def __getattr__(self, name: str) -> pd.DataFrame:
        if name.startswith("_") or name not in self:
            raise AttributeError(f"results have no attribute and no table {name!r}")
        return self[name]

    def __iter__(self):  # type: ignore[no-untyped-def]
        from harness.storage import table_files

        return iter(sorted(table_files.run_tables()))

    def __contains__(self, name: object) -> bool:
        return name in list(self)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self})

    def __repr__(self) -> str:
        return f"Results(out={self.out!r}, run={self.run!r})"

    def _repr_html_(self) -> str:
        return f"{self.overview().to_html(index=False)}<p>run {self.run}, in {self.out}</p>"

    def overview(self) -> pd.DataFrame:
        """One row per source, data set and protocol: the score over all neuroids, or of the reading times."""
        import pandas as pd

        labels = ["dataset", "protocol", "model", "kind"]
        columns = ["metric", "r", "r_low", "r_high", "ceiling"]
        brain = self["model_scores"]
        frames = [brain[brain["target"] == "all"], self["reading_scores"]]
        shown = pd.concat([frame.reindex(columns=[*labels, *columns]) for frame in frames if len(frame)] or [brain])
        shown = shown.reindex(columns=[*labels, *columns])
        order = {"dataset": True, "protocol": True, "r": False}
        return shown.sort_values(list(order), ascending=list(order.values()), ignore_index=True)

    def write_report(self) -> str:
        """Write OUT/report.html and return its path; with a temporary OUT it is removed with the results."""
        from harness.report import page

        return page.write(self.out, self.run)


def load_scores(out: str, run: str | None = None) -> Results:
    """Read what `harness run`, or `evaluate` with `out=`, has written.

    Args:
        out: folder or URL given as --out.
        run: name of a run; None is the one that started last.

    Raises:
        FileNotFoundError: if there are no tables.
        ValueError: if the run is unknown; lists the nearest names.
    """
    from harness.storage import tables

    return Results(str(out), str(tables.pick_run(str(out), run)["run"]))
