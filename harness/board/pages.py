"""What stands on the pages of the site: the board, and a page per data set, model and training run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from harness.board import rows as board_rows
from harness.board.gathering import Gathered
from harness.board.rows import file_of, link
from harness.numbers import count, interval, number
from harness.report import cells, figures, property_figures
from harness.report.cells import Parts, ReportTable, Row
from harness.report.figures import PROTOCOLS, Figure, of_many
from harness.statistics import scores, trajectories
from harness.variants import base_name

if TYPE_CHECKING:
    import pandas as pd

PLAIN = "Pearson r"
MARKS = (
    "Dots: models. Open rings: untrained controls and other variants. Diamonds: the highest controls without a model; "
    "a dotted line marks the best of them."
)


@dataclass(frozen=True)
class Page:
    """One page.

    Attributes:
        file: relative to the site.
        kicker: small line above the title.
        facts: (term, text or link) pairs.
        parts: headings, figures and tables.
        meta: a line below the title.
        rows: data of the sortable list of scores, from `rows.data`; None for none.
        after: figures and tables below that list.
        links: (heading, links) lists.
    """

    file: str
    kicker: str
    title: str
    facts: list[tuple[str, Any]]
    parts: Parts
    meta: str = ""
    rows: dict[str, Any] | None = None
    after: Parts = field(default_factory=list)
    links: tuple[tuple[str, list[Any]], ...] = ()

    @property
    def up(self) -> str:
        """Prefix of links to other pages."""
        return "../" * self.file.count("/")


@dataclass(frozen=True)
class Board:
    """What the pages are made from: results with labels, and checkpoints of trainings with their scores."""

    gathered: Gathered
    newest: pd.DataFrame
    checkpoints: pd.DataFrame

    @classmethod
    def of(cls, gathered: Gathered) -> Board:
        """Prepare the results of all runs."""
        newest = board_rows.with_labels(gathered.newest)
        return cls(gathered, newest, _checkpoints(newest, gathered.models))


def _checkpoints(newest: pd.DataFrame, models: pd.DataFrame) -> pd.DataFrame:
    """Scores of checkpoints with their place in a training, as trajectories.checkpoints gives them, and their ends."""
    plain = newest[newest["measure"] == PLAIN].assign(target="all")
    brain = plain[plain["table"] == "model_scores"]
    of_board = scores.of_run("board", brain, plain[plain["table"] == "reading_scores"], models)
    placed = trajectories.checkpoints(of_board)
    placed = placed[placed["dataset"] != scores.AVERAGE].drop(columns=["target", "metric", "low"])
    return placed.merge(plain.drop(columns="target"), on=["model", "dataset", "protocol"], how="left")


def index(board: Board) -> Page:
    """The first page: the highest scores, all scores, and what was read."""
    newest, gathered = board.newest, board.gathered
    protocols = ", ".join(name.upper() for name in PROTOCOLS if name in set(newest["protocol"]))
    n_models, n_outs = newest.loc[newest["kind"] == "model", "model"].nunique(), gathered.runs["out"].nunique()
    meta = f"{_n(n_models, 'model')} on {_n(newest['dataset'].nunique(), 'data set')} under {protocols}, from "
    meta += f"{_n(len(gathered.runs), 'run')} in {_n(n_outs, 'folder')}."
    names = sorted(set(board.checkpoints["training"]))
    trainings = [link(name, file_of("trainings", name)) for name in names]
    links = (("Training runs", trainings),) if trainings else ()
    rows = board_rows.data(newest, "")
    return Page(
        "index.html", "Brain-alignment harness", "Board", [], [_highest(newest)], meta, rows, [_runs(gathered)], links
    )  # fmt: skip


def _n(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def _highest(newest: pd.DataFrame) -> ReportTable:
    """The highest model and control of each data set, measure and protocol."""
    columns = ["Data set", "Score", "Interval", "Ceiling", "Ratio", "Highest model", "Highest control", "Its score",
               "Models"]  # fmt: skip
    lines = []
    for (dataset, measure, protocol), group in newest.groupby(["dataset", "measure", "protocol"], sort=False):
        models, controls = (group[(group["kind"] == kind) & group["height"].notna()] for kind in ("model", "control"))
        if models.empty:
            continue
        top = cells.records(models.head(1))[0]
        words = f"{dataset} {protocol.upper()}" + ("" if measure == PLAIN else f", {measure}")
        lines.append([
            link(words, file_of("datasets", dataset)), number(top["r"]), interval(top["r_low"], top["r_high"]),
            number(top["ceiling"]), number(top["ratio"], 2),
            link(top["model"], file_of("models", base_name(top["model"]))),
            controls["model"].iloc[0] if len(controls) else "–",
            number(controls["r"].iloc[0]) if len(controls) else "–", f"{len(models):,}",
        ])  # fmt: skip
    caption = (
        "The highest score of each data set. Whether it is higher than that of the control or of another model is a "
        "question to a test: see the report of its run."
    )
    return ReportTable(caption, columns, lines, n_words=1)


def _runs(gathered: Gathered) -> ReportTable:
    columns: cells.Columns = {
        "Run": ("run", str), "OUT": ("out", str), "Evaluation": ("spec", str), "Started": ("started", str),
        "Status": ("status", str), "Code version": ("code_version", str),
    }  # fmt: skip
    runs = gathered.runs.sort_values("started", ascending=False)
    return cells.table("Runs, newest first. `harness report OUT --run RUN` writes the report of one.", columns,
                       cells.records(runs), n_words=6)  # fmt: skip


# --- data sets --------------------------------------------------------------------------------------------------------


def dataset(board: Board, name: str) -> Page:
    """Figures and all scores of one data set."""
    rows = board.newest[board.newest["dataset"] == name]
    parts: Parts = []
    for measure, of_measure in rows.groupby("measure", sort=False):
        n_models = of_measure.loc[of_measure["kind"] == "model", "model"].nunique()
        caption = f"{measure}. {MARKS} Bars: intervals.{of_many(n_models, figures.MOST_MODELS)}"
        drawn = figures.scores(of_measure, str(measure), by="height")
        parts += [Figure(caption, drawn)] if drawn else []
    placed = board.checkpoints[board.checkpoints["dataset"] == name]
    parts += [_along(placed)] if len(placed) else []
    versions = sorted(set(rows["dataset_version"].dropna()) - {""})
    facts: list[tuple[str, Any]] = [("Version", ", ".join(versions) or "–"), *_protocols(rows)]
    if len(versions) > 1:
        facts.append(("Note", "Runs used different versions of this data set; their scores are not comparable."))
    trainings = [link(one, "../" + file_of("trainings", one)) for one in sorted(set(placed["training"]))]
    links = (("Training runs", trainings),) if trainings else ()
    listed = board_rows.data(rows, "../")
    return Page(file_of("datasets", name), "Data set", name, facts, parts, rows=listed, links=links)


def _protocols(rows: pd.DataFrame) -> list[tuple[str, str]]:
    """Hashes of each protocol; several if runs used different settings under one name."""
    facts = []
    for protocol, group in rows.groupby("protocol", sort=False):
        hashes = sorted(set(group["protocol_hash"].dropna()) - {""})
        note = "; settings differ between runs: their scores are not comparable" if len(hashes) > 1 else ""
        facts.append((str(protocol).upper(), f"hash {', '.join(hashes) or 'unknown'}{note}"))
    return facts


def _along(placed: pd.DataFrame) -> Figure:
    """Score along the trainings with the highest scores on one data set."""
    best = placed.groupby("training")["score"].max().nlargest(figures.MOST_CURVES).index
    along = "tokens seen" if placed["tokens"].notna().all() else "training step"
    n = placed["training"].nunique()
    caption = f"Score against {along}; mean over the seeds of a training."
    if n > figures.MOST_CURVES:
        caption += f" Only the {figures.MOST_CURVES} of {n} trainings with the highest scores are drawn."
    return Figure(caption, property_figures.trajectories(placed[placed["training"].isin(best)]))


# --- models and trainings ---------------------------------------------------------------------------------------------


def model(name: str, rows: list[Row], earlier: list[Row], about: Row, training: str) -> Page:
    """All scores of one model or control and of its variants.

    Args:
        name: the model, without the suffix of a variant.
        rows: its newest results and those of its variants.
        earlier: its results that newer runs replaced.
        about: its row of model_properties; empty if unknown.
        training: the training run that it is a checkpoint of; "" for none.
    """
    parts: Parts = []
    for source in dict.fromkeys(row["model"] for row in rows):
        of_source = [row for row in rows if row["model"] == source]
        kind = cells.kind(of_source[0]["kind"])
        caption = f"{source} ({kind})" if source != name else f"{kind.capitalize()}: newest results"
        parts.append(board_rows.table(caption, "Data set", [(_place(row), row) for row in of_source]))
    if earlier:
        caption = f"Results of earlier runs, which newer ones replaced: {len(earlier):,}"
        lines = [(_place(row, f" ({row['model']})"), row) for row in earlier]
        parts.append(board_rows.table(caption, "Data set", lines, folded=True))
    facts = _about(about)
    if training:
        facts.append(("Training run", link(training, "../" + file_of("trainings", training))))
    kicker = "Control" if all(row["kind"] == "control" for row in rows) else "Model"
    return Page(file_of("models", name), kicker, name, facts, parts)


def _place(row: Row, source: str = "") -> Any:
    """A link to a data set, which names the protocol too."""
    measure = "" if row["measure"] == PLAIN else f", {row['measure']}"
    words = f"{row['dataset']} {row['protocol'].upper()}{measure}{source}"
    return link(words, "../" + file_of("datasets", row["dataset"]))


def _about(about: Row) -> list[tuple[str, Any]]:
    """Facts of the table model_properties."""
    if not about:
        return []
    base = about["tuned_from"] or ""
    facts = [
        ("Family", about["family"]), ("Parameters", count(about["n_parameters"] or None)), ("Tuned from", base),
        ("Stage", about["stage"]), ("Revision", about["revision"]), ("Layers", count(about["n_layers"] or None)),
    ]  # fmt: skip
    return [(term, value) for term, value in facts if value and value != "–"]


def training(board: Board, name: str) -> Page:
    """Score along one training run, data set by data set, with a table of its checkpoints."""
    placed = board.checkpoints[board.checkpoints["training"] == name]
    parts: Parts = []
    for dataset_name, rows in placed.groupby("dataset", sort=False):
        parts += [str(dataset_name), _along(rows)]
        lines = [(_checkpoint(row), row) for row in cells.records(rows)]
        parts.append(board_rows.table(f"Checkpoints on {dataset_name}.", "Checkpoint", lines))
    n_seeds = placed.loc[placed["step"] > 0, "seed"].nunique()
    facts: list[tuple[str, Any]] = [("Checkpoints", f"{placed['model'].nunique():,}"), ("Seeds", f"{n_seeds}")]
    return Page(file_of("trainings", name), "Training run", name, facts, parts)


def _checkpoint(row: Row) -> Any:
    seed = f", seed {row['seed']}" if row["seed"] >= 0 else ""
    words = f"{row['protocol'].upper()}, step {row['step']:,}{seed}"
    return link(words, "../" + file_of("models", base_name(row["model"])))


def all_pages(board: Board) -> list[Page]:
    """Every page of the site, the first page last."""
    pages = [dataset(board, str(name)) for name in dict.fromkeys(board.newest["dataset"])]
    newest, earlier = _by_model(board.newest), _by_model(board.gathered.earlier)
    about = {row["model"]: row for row in cells.records(board.gathered.models)}
    training_of = dict(zip(board.checkpoints["model"], board.checkpoints["training"], strict=True))
    pages += [
        model(name, rows, earlier.get(name, []), about.get(name, {}), training_of.get(name, ""))
        for name, rows in newest.items()
    ]
    pages += [training(board, name) for name in dict.fromkeys(board.checkpoints["training"])]
    return [*pages, index(board)]


def _by_model(rows: pd.DataFrame) -> dict[str, list[Row]]:
    by_model: dict[str, list[Row]] = {}
    for row in cells.records(rows):
        by_model.setdefault(base_name(row["model"]), []).append(row)
    return by_model
