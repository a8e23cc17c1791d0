"""The bodies of the commands about scores that are there: `harness analyse` and `harness compare`."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.cli.printing import document, show
from harness.report.embedded_files import escape_formulas

if TYPE_CHECKING:
    import pandas as pd

    from harness.statistics.analysis import Analysis
    from harness.statistics.scores import Scores


def analyse(arguments: argparse.Namespace) -> int:
    """Statistics of our tables, or of anyone's scores."""
    from harness.statistics import analysis

    scores = _scores(arguments)
    found = analysis.analyse(scores)
    if arguments.save:
        _save(Path(arguments.save), found)
    if arguments.json:
        frames = {name: _rows(frame) for name, frame in found._asdict().items()}
        said = {"source": scores.source, "sentences": analysis.sentences(found), "notes": list(scores.notes)}
        document(said | frames)
        return 0
    print(f"{scores.source}: {len(scores.models)} models", "", *analysis.sentences(found), sep="\n")
    for title, rows in _tables(found):
        print("", title, sep="\n")
        show(rows, as_json=False)
    for note in scores.notes:
        print("", f"Note: {note}", sep="\n")
    print("", f"{_saved(arguments)}Every p, interval and region: --json, or --save DIR.", sep="\n")
    return 0


def _scores(arguments: argparse.Namespace) -> Scores:
    """Of a folder of tables, or of a file."""
    import fsspec

    from harness.statistics import score_files, scores

    filesystem, root = fsspec.core.url_to_fs(arguments.path)
    if not filesystem.isdir(root):
        return score_files.read(arguments.path, arguments.score or (), arguments.where or (), arguments.encoding)
    if arguments.score or arguments.where or arguments.encoding:
        raise ValueError(
            "--score and --where are for a file of scores, like --encoding; of a run's tables --run names it."
        )
    return scores.of_tables(arguments.path, arguments.run)


def compare(arguments: argparse.Namespace) -> int:
    """Our scores beside the paper's, and the paper beside its own tables."""
    from harness.statistics import published, score_files

    paper = score_files.read(published.find(arguments.paper, arguments.data_root))
    claims = published.claims(paper)
    ours = _scores(arguments) if arguments.path else None
    compared = published.beside(ours, paper) if ours else None
    if arguments.json:
        document({
            "models": [] if compared is None else _rows(compared),
            "summary": [] if compared is None else _rows(published.summary(compared)),
            "claims": [claim._asdict() | {"agrees": claim.agrees} for claim in claims],
            "not_given": list(published.NOT_GIVEN), "confounds": published.confounds(),
        })  # fmt: skip
        return 0
    if ours and compared is not None:
        _print_compared(ours, paper, compared)
    print("What the paper prints, and what its own tables give:")
    show([_claim(claim) for claim in claims], as_json=False)
    print("", "Printed, and not to be had from its tables:", *(f"- {what}" for what in published.NOT_GIVEN), sep="\n")
    print("", "What the pairs compare beside tuning:", *(f"- {what}" for what in published.confounds()), sep="\n")
    return 0


def _print_compared(ours: Scores, paper: Scores, compared: pd.DataFrame) -> None:
    from harness.statistics import published

    for table, of in (("5", "brains"), ("7", "reading times"), ("9", "properties")):
        part = compared[compared["table"] == table]
        if len(part):
            print(f"Table {table}, {of}:")
            show([_cells(row, _COMPARED) for row in part.to_dict("records")], as_json=False)
            print()
    if len(compared):
        print("By data set:")
        show([_cells(row, _SUMMARY) for row in published.summary(compared).to_dict("records")], as_json=False)
    else:
        print(f"{ours.source} and the paper have no model and data set in common.")
    theirs, own = published.absent(ours, paper)
    print("", f"Of the paper's {len(paper.models)} models not scored here: {', '.join(theirs) or 'none'}.", sep="\n")
    print(f"Scored here, not in the paper: {', '.join(own) or 'none'}.", "", sep="\n")


def _claim(claim: Any) -> dict[str, str]:
    from harness.numbers import number

    verdict = "the same" if claim.agrees else f"differs{f': {claim.remark}' if claim.remark else ''}"
    return {
        "what": claim.what, "printed": number(claim.printed, claim.digits), "from its tables":
        number(claim.given, claim.digits + 1), "": verdict,
    }  # fmt: skip


def _saved(arguments: argparse.Namespace) -> str:
    return f"All of it lies in {arguments.save}. " if arguments.save else ""


def _save(folder: Path, found: Analysis) -> None:
    """One CSV for each frame that has rows."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, frame in found._asdict().items():
        if len(frame):
            escape_formulas(frame).to_csv(folder / f"{name}.csv", index=False)


def _rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows for JSON: what is not measurable is null."""
    rows: list[dict[str, Any]] = frame.to_dict("records")
    return [
        {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in row.items()}
        for row in rows
    ]


_COMPARED = {
    "model": ("model", None), "data set": ("dataset", None), "protocol": ("protocol", None), "paper": ("paper", 3),
    "ours": ("ours", 3), "ours - paper": ("difference", 3),
}  # fmt: skip
_SUMMARY = {
    "table": ("table", None), "data set": ("dataset", None), "protocol": ("protocol", None), "models": ("n_models", 0),
    "mean difference": ("mean_difference", 3), "largest": ("largest_difference", 3),
    "r over models": ("r_over_models", 2),
}  # fmt: skip
# Heading of what is printed -> (columns of the frame, digits). A range is two columns.
_TUNING = {
    "pairs": ("n_pairs", 0), "bases": ("n_bases", 0), "gain %": ("gain_percent", 2), "difference": ("difference", 4),
    "95 % interval": ("low high", 4), "over": ("interval_over", None), "d_z": ("d_z", 2),
    "p sign flips": ("p_sign_flip", 4), "BH": ("p_adjusted", 4), "p mixed": ("p_mixed", 4), "icc": ("icc", 2),
    "p Wilcoxon": ("p_wilcoxon", 4), "p t over pairs*": ("p_t_pairs", 5),
}  # fmt: skip
_FAMILIES = {
    "family": ("family", None), "pairs": ("n_pairs", 0), "bases": ("n_bases", 0), "gain %": ("gain_percent", 2),
    "difference": ("difference", 4), "95 % interval": ("low high", 4),
}  # fmt: skip
_CORRELATIONS = {
    "models": ("population", None), "property": ("property", None), "given": ("given", None), "unit": ("unit", None),
    "n": ("n", 0), "r": ("r", 3), "95 % interval": ("r_low r_high", 2), "p": ("p", None), "BH": ("p_adjusted", None),
}  # fmt: skip
_SCALING = {
    "bases": ("n_bases", 0), "slope per decade": ("slope", 4), "95 % interval": ("low high", 4), "p": ("p", None),
    "R²": ("r2", 2), "within families": ("slope_in_family", 4), "its interval": ("in_family_low in_family_high", 4),
}  # fmt: skip
_TRAJECTORIES = {
    "training": ("training", None), "checkpoints": ("n_checkpoints", 0), "first": ("first_score", 3),
    "last": ("last_score", 3), "rho": ("rho", 2), "p": ("p", None),
}  # fmt: skip


def _tables(found: Analysis) -> Iterable[tuple[str, list[dict[str, str]]]]:
    """What is printed: (title, rows)."""
    tuning = (
        "Tuned minus base; the unit is the base. *takes pairs for independent, which they are not: not to be quoted"
    )
    for title, frame, columns in (
        (tuning, found.tuning, _TUNING),
        ("By family of models, those shown beside included", found.families, _FAMILIES),
        ("What goes with alignment", _main_correlations(found.correlations), _CORRELATIONS),
        ("Score against log10 of the number of parameters", found.scaling, _SCALING),
        ("Along a training", found.trajectories, _TRAJECTORIES),
    ):
        if len(frame):
            yield title, [_row(row, columns, frame) for row in frame.to_dict("records")]


def _main_correlations(rows: pd.DataFrame) -> pd.DataFrame:
    """Of many, those with the average; without one, those of every data set with nothing held constant."""
    average = rows[rows["dataset"] == "average"]
    kept = average if len(average) else rows[rows["given"] == ""]
    same = ["dataset", "protocol", "metric", "property", "given", "unit", "n"]
    kept = kept[~kept.duplicated(same)]  # "all" where it adds no model to the tuned ones
    return kept.sort_values(["protocol", "population", "given", "unit"], ascending=[True, False, True, False])


def _row(row: dict[str, Any], columns: dict[str, tuple[str, int | None]], frame: pd.DataFrame) -> dict[str, str]:
    where = {"data set": row["dataset"]}
    where |= {"protocol": row["protocol"]} if frame["protocol"].any() else {}
    where |= {"metric": row["metric"]} if frame["metric"].nunique() > 1 else {}
    return where | _cells(row, columns)


def _cells(row: dict[str, Any], columns: dict[str, tuple[str, int | None]]) -> dict[str, str]:
    return {name: _cell(row, names, digits) for name, (names, digits) in columns.items()}


def _cell(row: dict[str, Any], names: str, digits: int | None) -> str:
    from harness.numbers import interval, number

    values = [row[name] for name in names.split()]
    if len(values) == 2:
        return interval(values[0], values[1], digits or 0)
    (value,) = values
    if isinstance(value, str):
        return value
    if digits is None:  # a p
        return "–" if math.isnan(value) else f"{value:.2g}"
    return number(float(value), digits)
