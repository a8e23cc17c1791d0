"""The sections of the report: headings, notes, figures and tables made from the tables of one run.

Each table is a mapping from heading to the columns that fill it and the function that formats them, so that the content
of the page is defined here. The templates only do the layout.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from harness.numbers import count, interval, number, p_value
from harness.report import analysis_sections, brain_maps, figures, property_figures
from harness.report.cells import (
    Columns,
    Parts,
    ReportTable,
    by_protocol_table,
    filled,
    kind,
    kinds_of,
    records,
    short,
    strict_first,
    table,
    text,
)
from harness.report.figures import PROTOCOLS, Figure
from harness.report.glance import glance
from harness.wording import in_words

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from harness.datasets.own.glass_brains import Brain
    from harness.protocol import Protocol
    from harness.statistics.analysis import Analysis
    from harness.statistics.scores import Scores


@dataclass(frozen=True)
class Section:
    """A heading, a note on how to read the section, and its figures and tables."""

    id: str
    title: str
    note: str
    parts: Parts


_GLANCE = (
    "Score: Pearson r on held-out data; of reading times, the gain in log-likelihood per word where it was computed. "
    "Differences with an interval are paired tests; those without one were not tested."
)
# Id -> (title, note), in the order of the page.
_TITLES = {
    "ran": (
        "Models, data sets and protocols",
        "The revision is the commit of a checkpoint, or a hash of its files. The protocol hash, stored in every table "
        "row, identifies all settings except the model and the recording.",
    ),
    "scores": (
        "Brain scores",
        "STRICT follows current practice and is the protocol to rely on. PAPER repeats the method of the paper, "
        "including its weaknesses. EQUAL is STRICT with the same number of features for every model. BRAINSCORE2026 "
        "repeats Brain-Score language of August 2026. Controls use no language model; a model must exceed them to show "
        "alignment. Untrained controls are the same networks with random initialisation. Nothing is clipped.",
    ),
    "layers": (
        "Scores by layer",
        "Layer 0 is the embeddings; layer k is the output of block k. A large ring marks the selected layer. Circles "
        "are decoder layers, squares encoder layers. A dashed line with open symbols is the untrained control of the "
        "model of the same colour. The dotted orange line is the highest-scoring control without a language model.",
    ),
    "brains": (
        "Brain maps",
        "Glass brains of the scores that the command maps wrote as images. Models of one data set share the scale.",
    ),
    "similarity": (
        "RSA and CKA",
        "Similarity without a fit. RSA is Spearman’s correlation of dissimilarities (1 − r over features, over "
        "neuroids), CKA is linear. STRICT compares pairs of a test and a training row: unrelated features have 0 on "
        "average, and the ceiling is what a perfect model reaches. PAPER compares all pairs, as Brain-Score: random "
        "features far above 0 show how biased it is; it has no ceiling.",
    ),
    "paired": (
        "Paired tests",
        "Each model against its untrained control, the control that is hardest to exceed, its base, and the best "
        "model, fold by fold and subject by subject; on reading times, story by story. p adjusted: Benjamini-Hochberg "
        "within a data set, protocol and relation.",
    ),
    "tuning": (
        "Base and tuned models",
        "Gain is (tuned − base) / base, in percent, given where the interval of the base’s score lies above 0. Pairs "
        "that share a base are not independent, so the tests use the base as the unit. The t-test over pairs ignores "
        "this; it is shown only for comparison.",
    ),
    "properties": (
        "Correlates of alignment",
        "Correlations over models are what papers report. Correlations over bases (the mean of the models that share "
        "one) are the ones to rely on, because models that share a base are not independent. Size and knowledge are "
        "correlated; partial correlations hold one of them constant.",
    ),
    "trainings": (
        "Scores during training",
        "Checkpoints of one training run, recognised by their names, and the rank correlation of score and step.",
    ),
    "reading": (
        "Reading times",
        "r is Pearson’s correlation with the mean reading time of each word. Δ log-likelihood is the gain per held-out "
        "word over a regression on the control predictors alone. Partial r holds these predictors constant.",
    ),
    "next-word": (
        "Next-word prediction",
        "Loss is in nats per token of the model’s own tokenizer. Bits per byte and perplexity per word can be compared "
        "across tokenizers.",
    ),
}


def sections(
    frames: dict[str, pd.DataFrame], protocols: dict[str, Protocol], scores: Scores, results: Analysis,
    brains: Sequence[Brain] = (),
) -> list[Section]:  # fmt: skip
    """The sections that have content, in the order of the page.

    Args:
        frames: model_scores, similarity_scores, layer_scores, reading_scores, reader_slopes, next_word_scores,
            model_properties of a run.
        protocols: protocol hash -> protocol, for those that this version of the program can read.
        scores: the scores of the run, joined with the properties of the models.
        results: the statistics computed from `scores`.
        brains: glass brains, if maps were written.
    """
    brain, reading = frames["model_scores"], frames["reading_scores"]
    colours, ends = property_figures.colours(scores), interval_ends(frames)
    parts: dict[str, Parts] = {
        "ran": _what_ran(frames, protocols),
        "scores": [part for dataset, rows in brain.groupby("dataset") for part in _score_parts(dataset, rows)],
        "layers": _layer_figures(frames["layer_scores"], brain, colours.of_model),
        "brains": [*brain_maps.figures_of(brains, brain)],
        "similarity": _similarity_parts(frames["similarity_scores"]),
        "paired": analysis_sections.paired(results),
        "tuning": analysis_sections.tuning(results, ends, colours),
        "properties": analysis_sections.properties(scores, results, colours),
        "trainings": analysis_sections.trainings(scores, results, ends, colours),
        "reading": [
            *(part for dataset, rows in reading.groupby("dataset") for part in _reading_parts(dataset, rows)),
            *_reader_parts(frames["reader_slopes"]),
        ],
        "next-word": _next_word_parts(frames["next_word_scores"]),
    }
    shown = {key: filled(of_section) for key, of_section in parts.items()}
    return [Section(key, title, note, shown[key]) for key, (title, note) in _TITLES.items() if shown[key]]


def first_screen(frames: dict[str, pd.DataFrame]) -> Section | None:
    """The section that opens the page; None if nothing was scored. Arguments as in `sections`."""
    parts = filled(glance(frames))
    return Section("glance", "At a glance", _GLANCE, parts) if parts else None


def interval_ends(frames: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Intervals of the scores of whole data sets: model, dataset, protocol, metric, low, high; NaN where there is none.

    Args:
        frames: model_scores and reading_scores of a run.
    """
    import pandas as pd

    brain, reading = frames["model_scores"], frames["reading_scores"]
    gains = reading[reading["delta_ll"].notna()].assign(metric="delta_ll")
    of_measure = [(brain[brain["target"] == "all"], "r"), (reading, "r"), (gains, "delta_ll")]
    keys = ["model", "dataset", "protocol", "metric"]
    parts = [rows[keys].assign(low=rows[f"{name}_low"], high=rows[f"{name}_high"]) for rows, name in of_measure]
    return pd.concat(parts).drop_duplicates(keys)


def _what_ran(frames: dict[str, pd.DataFrame], protocols: dict[str, Protocol]) -> Parts:
    models = sorted(records(frames["model_properties"]), key=lambda row: (row["kind"] != "model", row["model"]))
    columns: Columns = {
        "Model": ("model", str), "Kind": ("kind", kind), "Family": ("family", text),
        "Tuned from": ("tuned_from", text), "Revision": ("revision", short), "Parameters": ("n_parameters", count),
        "Layers": ("n_layers", count), "Hidden size": ("hidden_size", count), "Context": ("context_size", count),
    }  # fmt: skip
    if any(row["next_word_text"] for row in models):
        columns["Loss (nats per token)"] = ("next_word_loss", number)
    parts: Parts = [table("Models.", columns, models, n_words=5)] if models else []
    brain, key = frames["model_scores"], ["dataset", "protocol", "protocol_hash"]
    scored = records(brain[brain["target"] == "all"].drop_duplicates(key))
    scored += records(frames["reading_scores"].drop_duplicates(key))
    by_protocol = {(row["dataset"], PROTOCOLS.index(row["protocol"]), row["protocol_hash"]): row for row in scored}
    methods, notes = [], []
    for _, row in sorted(by_protocol.items(), key=lambda item: item[0]):
        protocol = protocols.get(row["protocol_hash"])
        description = in_words(protocol) if protocol else "defined by another version of the program"
        methods.append({**row, "n": row.get("n_rows", row.get("n_words")), "words": description})
        notes += [{**row, "note": note} for note in (protocol.notes if protocol else ())]
    columns = {
        "Data set": ("dataset", str), "Version": ("dataset_version", text), "Protocol": ("protocol", str.upper),
        "Hash": ("protocol_hash", text), "Method": ("words", str), "Metric": ("metric", text), "Rows": ("n", count),
    }  # fmt: skip
    if methods:
        parts.append(table("Data sets and protocols.", columns, methods, n_words=6))
    if notes:
        columns = {"Data set": ("dataset", str), "Protocol": ("protocol", str.upper), "Note": ("note", str)}
        parts.append(table("Notes on the protocols: sources and unstated details", columns, notes, 3, folded=True))
    return parts


def _score_parts(dataset: str, rows: pd.DataFrame) -> Parts:
    overall, by_target = rows[rows["target"] == "all"], rows[rows["target"] != "all"]
    cells: Columns = {
        "Layer": ("stack layer", "{}.{}".format), "r": ("r", number), "Interval": ("r_low r_high", interval),
        "Ceiling": ("ceiling", number), "Ratio": ("ratio", partial(number, digits=2)),
        "n (NaN)": ("n_neuroids n_nan", "{:,} ({:,})".format),
    }  # fmt: skip
    few_cells = {name: cells[name] for name in ("Layer", "r", "Interval", "Ratio")}
    parts: Parts = [dataset]
    if len(overall):
        parts.append(by_protocol_table(f"r is the median over n neuroids. {kinds_of(overall)}", cells, overall))
    unique = overall[overall["unique_r2"].notna()]
    if len(unique):
        parts.append(_unique_variance(unique))
    if len(by_target):
        caption = f"By target: {by_target['target'].nunique()} regions or networks"
        parts.append(by_protocol_table(caption, few_cells, by_target, second="Target", folded=True))
    return parts


def _unique_variance(rows: pd.DataFrame) -> ReportTable:
    """Variance of held-out responses that each model explains beyond the controls."""
    columns: Columns = {
        "Unique R²": ("unique_r2", partial(number, sign=True)), "Interval": ("unique_low unique_high", interval),
        "Controls alone": ("controls_r2", number), "Together": ("joint_r2", number),
    }  # fmt: skip
    controls = " or ".join(sorted(set(rows["unique_over"])))
    caption = (
        f"Unique variance on held-out rows, at the layer selected above: R² of the model and the controls ({controls}) "
        "together minus R² of the controls alone. R² is negative where predictions are worse than the mean of the "
        "training rows. Where the controls alone are below 0, part of the difference is harm that the joint fit "
        "avoids: the model explains variance beyond the controls only if R² together is above 0 too."
    )
    return by_protocol_table(caption, columns, rows)


def _similarity_parts(rows: pd.DataFrame) -> Parts:
    """A table of RSA and of CKA for each data set; features and responses without a value are left out."""
    whole = rows[(rows["subject"] == "") & (rows["target"] == "all") & rows["value"].notna()]
    columns: Columns = {
        "Layer": ("stack layer", "{}.{}".format), "Value": ("r", number),
        "Interval": ("value_low value_high", interval), "Ceiling": ("ceiling", number),
        "Ratio": ("ratio", partial(number, digits=2)),
    }  # fmt: skip
    parts: Parts = []
    for dataset, of_dataset in whole.rename(columns={"value": "r"}).groupby("dataset"):
        parts.append(dataset)
        for metric, scored in of_dataset.groupby("metric", sort=False):
            parts.append(by_protocol_table(f"{metric.upper()}. {kinds_of(scored)}", columns, scored))
    return parts


def _layer_figures(layer_scores: pd.DataFrame, model_scores: pd.DataFrame, colours: dict[str, int]) -> Parts:
    curves, selected = (frame[frame["target"] == "all"] for frame in (layer_scores, model_scores))
    parts: Parts = []
    for dataset, rows in curves.groupby("dataset"):
        panels = figures.layers(rows, selected[selected["dataset"] == dataset], colours)
        parts += [dataset, Figure("Pearson r by layer.", panels)] if panels else []
    return parts


def _reading_parts(dataset: str, rows: pd.DataFrame) -> Parts:
    columns: Columns = {
        "Source": ("model", str), "Predictor": ("predictor", text), "r": ("r", number),
        "Interval": ("r_low r_high", interval), "|r|": ("abs_r", number), "Ceiling": ("ceiling", number),
        "Ratio": ("ratio", partial(number, digits=2)), "Δ log-lik.": ("delta_ll", partial(number, digits=4, sign=True)),
        "Interval of Δ": ("delta_ll_low delta_ll_high", partial(interval, digits=4)),
        "Partial r": ("partial_r", number),
        "Words (NaN)": ("n_words n_missing", "{:,} ({:,})".format),
    }  # fmt: skip
    parts: Parts = [dataset]
    order = figures.in_order(rows, by="abs_r")
    for protocol in PROTOCOLS:
        scores = rows[rows["protocol"] == protocol]
        lines = sorted(records(scores), key=lambda row: order.index(row["model"]))
        if lines:
            parts.append(table(f"{protocol.upper()}. {kinds_of(scores)}", columns, lines, protocol=protocol))
    return parts


def _reader_parts(slopes: pd.DataFrame) -> Parts:
    """Slope of reading time on surprisal over all readers; the tables also have single readers."""
    rows = slopes[(slopes["subject"] == "") & (slopes["term"] == "surprisal_bits")]
    if rows.empty:
        return []
    columns: Columns = {
        "Source": ("model", str), "Data set": ("dataset", str), "Protocol": ("protocol", str.upper),
        "Log ms per bit": ("slope", partial(number, digits=4, sign=True)),
        "Interval": ("low high", partial(interval, digits=4)), "p": ("p", p_value),
        "SD over readers": ("sd_subjects", partial(number, digits=4)), "Readers": ("n_subjects", count),
        "Readings": ("n_readings", count),
    }  # fmt: skip
    caption = "Slope of log reading time on surprisal; standard errors are clustered by reader and sentence."
    return ["Data of single readers", table(caption, columns, strict_first(rows), n_words=3)]


def _next_word_parts(rows: pd.DataFrame) -> Parts:
    columns: Columns = {
        "Source": ("model", str), "Kind": ("kind", kind), "Text": ("dataset", str), "Loss": ("loss_nats", number),
        "Perplexity": ("perplexity", partial(number, digits=1)), "Accuracy": ("accuracy", number),
        "Bits per byte": ("bits_per_byte", number),
        "Perplexity per word": ("word_perplexity", partial(number, digits=0)),
        "Tokens": ("n_tokens", count),
    }  # fmt: skip
    lines = sorted(records(rows), key=lambda row: (row["dataset"], row["bits_per_byte"]))
    return [table("Next-word prediction, sorted by bits per byte.", columns, lines, n_words=3)] if lines else []
