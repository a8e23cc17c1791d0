"""`harness analyse` and `harness compare`: statistics on existing scores."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.cli.printing import document, show
from harness.numbers import interval, number
from harness.report.embedded_files import escape_formulas

if TYPE_CHECKING:
    import pandas as pd

    from harness.statistics.analysis import Analysis
    from harness.statistics.scores import Scores


def analyse(arguments: argparse.Namespace) -> int:
    """Print the statistics of a run's tables or of a file of scores."""
    from harness.statistics import analysis

    scores = _scores(arguments)
    results = analysis.analyse(scores)
    sentences = analysis.sentences(results)
    if arguments.save:
        _save(Path(arguments.save), results)
    if arguments.json:
        summary = {"source": scores.source, "sentences": sentences, "notes": list(scores.notes)}
        document(summary | {name: frame.to_dict("records") for name, frame in results._asdict().items()})
        return 0
    print(f"{scores.source}: {len(scores.models)} models", "", *sentences, sep="\n")
    for title, rows in _tables(results):
        print("", title, sep="\n")
        show(rows, as_json=False)
    for note in scores.notes:
        print("", f"Note: {note}", sep="\n")
    saved = f"All tables are saved in {arguments.save}. " if arguments.save else ""
    print("", f"{saved}For every p-value, interval and region use --json or --save DIR.", sep="\n")
    return 0


def _scores(arguments: argparse.Namespace) -> Scores:
    """Read the scores from a folder of tables or from a file."""
    import fsspec

    from harness.statistics import score_files, scores

    filesystem, root = fsspec.core.url_to_fs(arguments.path)
    if not filesystem.isdir(root):
        return score_files.read(arguments.path, arguments.score or (), arguments.where or (), arguments.encoding)
    if arguments.score or arguments.where or arguments.encoding:
        raise ValueError(
            f"--score, --where and --encoding are for a file of scores, and {arguments.path} is a folder of tables; "
            "use --run to select a run."
        )
    return scores.of_tables(arguments.path, arguments.run)


def compare(arguments: argparse.Namespace) -> int:
    """Print our scores beside the paper's, its statements beside its own tables, and all its figures and tables."""
    from harness.statistics import paper_contents, published, score_files

    paper = score_files.read(published.find(arguments.paper, arguments.data_root))
    figures = published.printed_figures(paper)
    ours = _scores(arguments) if arguments.path else None
    compared = published.compare_scores(ours, paper) if ours else None
    appendix = None
    if arguments.path and compared is not None and (frames := _frames(arguments)):
        compared = published.with_error_bars(compared, frames["model_scores"])
        appendix = published.compare_appendix_j(**frames)
    contents = paper_contents.overview(figures, _joined(compared, appendix))
    if arguments.json:
        document({
            "models": [] if compared is None else compared.to_dict("records"),
            "appendix_j": [] if appendix is None else appendix.to_dict("records"),
            "summary": [] if compared is None else published.summary(compared).to_dict("records"),
            "claims": [figure._asdict() | {"agrees": figure.agrees} for figure in figures],
            "not_given": list(published.NOT_GIVEN), "confounds": published.confounds(), "contents": contents,
        })  # fmt: skip
        return 0
    if ours and compared is not None:
        _print_compared(ours, paper, compared, appendix)
    print("Statements in the paper, and the same values computed from its tables:")
    show([_printed_figure(figure) for figure in figures], as_json=False)
    not_given = (f"- {value}" for value in published.NOT_GIVEN)
    print("", "Statements that cannot be checked against its tables:", *not_given, sep="\n")
    print("", "Confounds of the model pairs:", *(f"- {confound}" for confound in published.confounds()), sep="\n")
    print("", "Figures and tables of the paper:", sep="\n")
    show(contents, as_json=False)
    return 0


def _frames(arguments: argparse.Namespace) -> dict[str, pd.DataFrame]:
    """The tables model_scores and similarity_scores of a run; empty for a file of scores."""
    import fsspec

    from harness.storage import tables

    filesystem, root = fsspec.core.url_to_fs(arguments.path)
    if not filesystem.isdir(root):
        return {}
    run = tables.pick_run(arguments.path, arguments.run)["run"]
    return {name: tables.read(arguments.path, name, run) for name in ("model_scores", "similarity_scores")}


def _joined(compared: pd.DataFrame | None, appendix: pd.DataFrame | None) -> pd.DataFrame | None:
    import pandas as pd

    return compared if compared is None or appendix is None else pd.concat([compared, appendix])


def _print_compared(ours: Scores, paper: Scores, compared: pd.DataFrame, appendix: pd.DataFrame | None) -> None:
    from harness.statistics import published

    for table, subject in (("5", "brain scores"), ("7", "model properties"), ("9", "reading times")):
        rows = compared[compared["table"] == table]
        columns = _COMPARED | (_ERROR_BARS if table == "5" and "ours_mad" in rows else {})
        if len(rows):
            print(f"Table {table}, {subject}:")
            show([_cells(row, columns) for row in rows.to_dict("records")], as_json=False)
            print()
    if appendix is not None and len(appendix):
        print("Table 8, whose values are normalised, CKA and RSA by an unknown constant:")
        show([_cells(row, _APPENDIX_J) for row in appendix.to_dict("records")], as_json=False)
        print()
    if len(compared):
        print("By data set:")
        show([_cells(row, _SUMMARY) for row in published.summary(compared).to_dict("records")], as_json=False)
    else:
        print(f"{ours.source} and the paper have no model and data set in common.")
    theirs, own = published.unmatched_models(ours, paper)
    not_scored = ", ".join(theirs) or "none"
    print("", f"Models of the paper not scored here (of {len(paper.models)}): {not_scored}.", sep="\n")
    print(f"Scored here, not in the paper: {', '.join(own) or 'none'}.", "", sep="\n")


def _printed_figure(figure: Any) -> dict[str, str]:
    verdict = "same" if figure.agrees else f"differs{f': {figure.remark}' if figure.remark else ''}"
    return {
        "what": figure.label, "printed": number(figure.printed, figure.digits), "from its tables":
        number(figure.recomputed, figure.digits + 1), "": verdict,
    }  # fmt: skip


def _save(folder: Path, results: Analysis) -> None:
    """Write each frame that has rows as one CSV."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, frame in results._asdict().items():
        if len(frame):
            escape_formulas(frame).to_csv(folder / f"{name}.csv", index=False)


_COMPARED = {
    "model": ("model", None), "data set": ("dataset", None), "protocol": ("protocol", None), "paper": ("paper", 3),
    "ours": ("ours", 3), "ours - paper": ("difference", 3),
}  # fmt: skip
_ERROR_BARS = {"MAD over subjects": ("ours_mad", 3)}
_APPENDIX_J = {
    "model": ("model", None), "metric": ("metric", None), "protocol": ("protocol", None),
    "data sets": ("n_datasets", 0), "paper": ("paper", 2), "ours, raw": ("ours", 3),
    "ours / ceiling of r": ("normalised", 2),
}  # fmt: skip
_SUMMARY = {
    "table": ("table", None), "data set": ("dataset", None), "protocol": ("protocol", None), "models": ("n_models", 0),
    "mean difference": ("mean_difference", 3), "largest": ("largest_difference", 3),
    "r over models": ("r_over_models", 2),
}  # fmt: skip
# Printed heading -> (columns of the frame, digits). An interval is two columns.
_TUNING = {
    "against": ("relation", None), "pairs": ("n_pairs", 0), "bases": ("n_bases", 0), "gain %": ("gain_percent", 2),
    "difference": ("difference", 4), "95 % interval": ("low high", 4), "over": ("interval_over", None),
    "d_z": ("d_z", 2), "p sign flips": ("p_sign_flip", 4), "BH": ("p_adjusted", 4), "p mixed": ("p_mixed", 4),
    "icc": ("icc", 2), "p Wilcoxon": ("p_wilcoxon", 4), "p t over pairs*": ("p_t_pairs", 5),
}  # fmt: skip
_PAIRED = {
    "model": ("model", None), "against": ("other", None), "as": ("relation", None), "target": ("target", None),
    "difference": ("difference", 4), "95 % interval": ("low high", 4), "p": ("p", 4), "BH": ("p_adjusted", 4),
    "folds": ("n_folds", 0), "subjects": ("n_subjects", 0),
}  # fmt: skip
_FAMILIES = {
    "family": ("family", None), "against": ("relation", None), "pairs": ("n_pairs", 0), "bases": ("n_bases", 0),
    "gain %": ("gain_percent", 2), "difference": ("difference", 4), "95 % interval": ("low high", 4),
}  # fmt: skip
_CORRELATIONS = {
    "models": ("population", None), "property": ("property", None), "covariate": ("covariate", None),
    "unit": ("unit", None), "n": ("n", 0), "r": ("r", 3), "95 % interval": ("r_low r_high", 2), "p": ("p", None),
    "BH": ("p_adjusted", None),
}  # fmt: skip
_SCALING = {
    "bases": ("n_bases", 0), "slope per decade": ("slope", 4), "95 % interval": ("low high", 4), "p": ("p", None),
    "R²": ("r2", 2), "within families": ("slope_in_family", 4), "its interval": ("in_family_low in_family_high", 4),
}  # fmt: skip
_TRAJECTORIES = {
    "training": ("training", None), "seeds": ("n_seeds", 0), "checkpoints": ("n_checkpoints", 0),
    "first": ("first_score", 3), "last": ("last_score", 3), "rho": ("rho", 2), "p": ("p", None),
    "peak at step": ("peak_step", 0), "interval of the peak": ("peak_low peak_high", 0), "decline": ("decline", 4),
    "its interval": ("decline_low decline_high", 4), "its p": ("decline_p", None),
}  # fmt: skip
_TRAJECTORY_TESTS = {
    "training": ("training", None), "minus": ("other", None), "of the scores": ("statistic", None),
    "difference": ("difference", 4), "95 % interval": ("low high", 4), "p": ("p", None), "seeds": ("n_seeds", 0),
    "p seeds": ("p_seeds", None), "over both": ("low_both high_both", 4), "p both": ("p_both", None),
    "BH": ("p_adjusted", None),
}  # fmt: skip


def _tables(results: Analysis) -> Iterable[tuple[str, list[dict[str, str]]]]:
    """The tables to print: (title, rows)."""
    tuning = "Tuned minus base; the unit is the base. *invalid: pairs that share a base are not independent"
    for title, frame, columns in (
        ("Paired tests: the same folds and subjects, or stories", results.paired, _PAIRED),
        (tuning, results.tuning, _TUNING),
        ("By model family, including models outside the main analysis", results.families, _FAMILIES),
        ("Correlates of alignment", _main_correlations(results.correlations), _CORRELATIONS),
        ("Score against log10 of the number of parameters", results.scaling, _SCALING),
        ("Score during training", results.trajectories, _TRAJECTORIES),
        ("Two trainings compared", results.trajectory_tests, _TRAJECTORY_TESTS),
    ):
        if len(frame):
            yield title, [_row(row, columns, frame) for row in frame.to_dict("records")]


def _main_correlations(rows: pd.DataFrame) -> pd.DataFrame:
    """The correlations with the average score; without an average, the zero-order ones of every data set."""
    average = rows[rows["dataset"] == "average"]
    selected = average if len(average) else rows[rows["covariate"] == ""]
    key = ["dataset", "protocol", "metric", "property", "covariate", "unit", "n"]
    selected = selected[~selected.duplicated(key)]  # population "all" repeats "tuned" if it has no further models
    return selected.sort_values(["protocol", "population", "covariate", "unit"], ascending=[True, False, True, False])


def _row(row: dict[str, Any], columns: dict[str, tuple[str, int | None]], frame: pd.DataFrame) -> dict[str, str]:
    leading = {"data set": row["dataset"]}
    leading |= {"protocol": row["protocol"]} if frame["protocol"].any() else {}
    leading |= {"metric": row["metric"]} if frame["metric"].nunique() > 1 else {}
    return leading | _cells(row, columns)


def _cells(row: dict[str, Any], columns: dict[str, tuple[str, int | None]]) -> dict[str, str]:
    return {name: _cell(row, names, digits) for name, (names, digits) in columns.items()}


def _cell(row: dict[str, Any], names: str, digits: int | None) -> str:
    values = [row[name] for name in names.split()]
    if len(values) == 2:
        return interval(values[0], values[1], digits or 0)
    (value,) = values
    if isinstance(value, str):
        return value
    if digits is None:  # a p-value
        return "–" if math.isnan(value) else f"{value:.2g}"
    return number(float(value), digits)
