"""What the report shows: the tables of a run as sections of figures and of tables of words.

Each shown table is a mapping from heading to the columns it is made of and how they are written, so that what a reader
sees can be read here in one place. The templates only lay the sections out.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from harness.numbers import count, interval, number, p_value
from harness.report import analysis_sections, figures
from harness.report.cells import (
    Columns,
    Parts,
    ReportTable,
    beside,
    kind,
    kinds_of,
    records,
    short,
    strict_first,
    table,
    text,
)
from harness.report.figures import PROTOCOLS, Figure, of_many
from harness.wording import in_words

if TYPE_CHECKING:
    import pandas as pd

    from harness.protocol import Protocol
    from harness.statistics.analysis import Analysis
    from harness.statistics.scores import Scores


@dataclass(frozen=True)
class Section:
    """A heading, how to read what follows, figures and tables."""

    id: str
    title: str
    note: str
    parts: Parts


def sections(
    frames: dict[str, pd.DataFrame], protocols: dict[str, Protocol], scores: Scores, found: Analysis
) -> list[Section]:
    """The sections that have something to show, in the order of the page.

    Args:
        frames: model_scores, layer_scores, reading_scores, reader_slopes, next_word_scores, model_properties of a run.
        protocols: protocol hash -> protocol, as far as this version of the program knows them.
        scores: the same scores, with what is known of the models.
        found: what was computed from them.
    """
    brain, reading = frames["model_scores"], frames["reading_scores"]
    shown = [
        Section(
            "ran", "What ran",
            "A revision is the commit of the checkpoint, or a hash of its content. A protocol decides everything but "
            "the model and the recording; its hash stands in every row.",
            _what_ran(frames, protocols),
        ),
        Section(
            "scores", "Scores against ceilings",
            "STRICT is the protocol to believe; PAPER is what the paper did, faults included; EQUAL is STRICT with as "
            "many features for all; BRAINSCORE2026 gives the figures of that board. Controls know nothing of "
            "language: a model that does not exceed them has shown nothing. Untrained twins are the same networks with "
            "weights drawn anew. Raw score, ceiling and ratio stand side by side; nothing is clipped.",
            [part for dataset, rows in brain.groupby("dataset") for part in _score_parts(dataset, rows)],
        ),
        Section(
            "layers", "Layer curves",
            "Layer 0 is the embeddings, layer k the output of block k. A large ring marks the layer that was chosen. "
            "Points of a decoder are round, of an encoder square. The dashed line with open points, in the colour of a "
            "model, is its untrained twin; the dotted line is the best control.",
            _layer_figures(frames["layer_scores"], brain),
        ),
        Section(
            "tuning", "Base against tuned",
            "Gain is (tuned − base) / base, in percent. Pairs that share a base are not independent: the unit of the "
            "tests is the base, and a t-test over pairs is shown only to be distrusted.",
            analysis_sections.tuning(found),
        ),
        Section(
            "properties", "What goes with alignment",
            "Over models, as papers print it, and over bases (the mean of the models that share one), which is the one "
            "to believe. Size and knowledge go together; partial correlations hold one of them constant.",
            analysis_sections.properties(scores, found),
        ),
        Section(
            "trainings", "Along a training",
            "Checkpoints of one training, told by their names, and whether the score rises with the step.",
            analysis_sections.trainings(scores, found),
        ),
        Section(
            "reading", "Reading times",
            "r is Pearson’s correlation with the mean reading time of each word. Δ log-likelihood is the held-out gain "
            "per word of a regression that already knows the control predictors; partial r is r given them.",
            [
                *(part for dataset, rows in reading.groupby("dataset") for part in _reading_parts(dataset, rows)),
                *_reader_parts(frames["reader_slopes"]),
            ],
        ),
        Section(
            "next-word", "Next-word prediction",
            "Loss in nats a token of the model’s own tokenizer; bits a byte and perplexity a word compare models whose "
            "tokenizers differ.",
            _next_word_parts(frames["next_word_scores"]),
        ),
    ]  # fmt: skip
    return [section for section in shown if section.parts]


def _what_ran(frames: dict[str, pd.DataFrame], protocols: dict[str, Protocol]) -> Parts:
    models = sorted(records(frames["model_properties"]), key=lambda row: (row["kind"] != "model", row["model"]))
    columns: Columns = {
        "Model": ("model", str), "Kind": ("kind", kind), "Family": ("family", text),
        "Tuned from": ("tuned_from", text), "Revision": ("revision", short), "Parameters": ("n_parameters", count),
        "Layers": ("n_layers", count), "Hidden size": ("hidden_size", count), "Context": ("context_size", count),
        **({"Loss (nats a token)": ("next_word_loss", number)} if any(row["next_word_text"] for row in models) else {}),
    }  # fmt: skip
    parts: Parts = [table("Models.", columns, models, n_words=5)] if models else []
    brain, key = frames["model_scores"], ["dataset", "protocol", "protocol_hash"]
    scored = records(brain[brain["target"] == "all"].drop_duplicates(key))
    scored += records(frames["reading_scores"].drop_duplicates(key))
    used = {(row["dataset"], PROTOCOLS.index(row["protocol"]), row["protocol_hash"]): row for row in scored}
    methods, notes = [], []
    for _, row in sorted(used.items(), key=lambda item: item[0]):
        protocol = protocols.get(row["protocol_hash"])
        words = in_words(protocol) if protocol else "of another version of the program"
        methods.append({**row, "n": row.get("n_rows", row.get("n_words")), "words": words})
        notes += [{**row, "note": note} for note in (protocol.notes if protocol else ())]
    columns = {
        "Data set": ("dataset", str), "Version": ("dataset_version", text), "Protocol": ("protocol", str.upper),
        "Hash": ("protocol_hash", text), "Method": ("words", str), "Metric": ("metric", text), "Rows": ("n", count),
    }  # fmt: skip
    if methods:
        parts.append(table("Data sets and protocols.", columns, methods, n_words=6))
    if notes:
        columns = {"Data set": ("dataset", str), "Protocol": ("protocol", str.upper), "Note": ("note", str)}
        parts.append(
            table("Notes on the protocols: sources, and what they do not state", columns, notes, 3, folded=True)
        )
    return parts


def _score_parts(dataset: str, rows: pd.DataFrame) -> Parts:
    overall, rest = rows[rows["target"] == "all"], rows[rows["target"] != "all"]
    cells: Columns = {
        "Layer": ("stack layer", "{}.{}".format), "r": ("r", number), "Interval": ("r_low r_high", interval),
        "Ceiling": ("ceiling", number), "Ratio": ("ratio", partial(number, digits=2)),
        "n (NaN)": ("n_neuroids n_nan", "{:,} ({:,})".format),
    }  # fmt: skip
    short = {name: cells[name] for name in ("Layer", "r", "Interval", "Ratio")}
    parts: Parts = [dataset]
    if len(overall):
        many = of_many((overall["kind"] == "model").sum() // overall["protocol"].nunique(), figures.MOST_MODELS)
        marks = (
            "Dots are models, open rings on the same row their untrained twins, diamonds controls; bars are intervals."
        )
        parts.append(Figure(f"Score of each source. {marks}{many}", figures.scores(overall)))
        parts.append(beside(f"Median over n neuroids. {kinds_of(overall)}", cells, overall))
    beyond = overall[overall["unique_r2"].notna()]
    if len(beyond):
        parts.append(_beyond_controls(beyond))
    if len(rest):
        n = rest["target"].nunique()
        parts.append(beside(f"By target: {n} regions or networks", short, rest, second="Target", folded=True))
    return parts


def _beyond_controls(rows: pd.DataFrame) -> ReportTable:
    """What each model explains that the controls do not."""
    columns: Columns = {
        "Unique R²": ("unique_r2", partial(number, sign=True)), "Interval": ("unique_low unique_high", interval),
        "Controls alone": ("controls_r2", number), "Together": ("joint_r2", number),
    }  # fmt: skip
    held_against = " or ".join(sorted(set(rows["unique_over"])))
    caption = f"Variance of held-out responses beyond the controls ({held_against}), of the layer chosen above: R² of "
    below = "R² falls below 0 where a held-out topic or story has a mean of its own: the difference is what counts."
    return beside(f"{caption}both together less R² of the controls alone. {below}", columns, rows)


def _layer_figures(layer_scores: pd.DataFrame, model_scores: pd.DataFrame) -> Parts:
    curves, chosen = (frame[frame["target"] == "all"] for frame in (layer_scores, model_scores))
    drawn = [
        (name, figures.layers(rows, chosen[chosen["dataset"] == name])) for name, rows in curves.groupby("dataset")
    ]
    return [
        part for dataset, panels in drawn if panels for part in (dataset, Figure("Pearson r against layer.", panels))
    ]


def _reading_parts(dataset: str, rows: pd.DataFrame) -> Parts:
    columns: Columns = {
        "Source": ("model", str), "Predictor": ("predictor", text), "r": ("r", number),
        "Interval": ("r_low r_high", interval), "|r|": ("abs_r", number), "Ceiling": ("ceiling", number),
        "Ratio": ("ratio", partial(number, digits=2)), "Δ log-lik.": ("delta_ll", partial(number, digits=4, sign=True)),
        "Its interval": ("delta_ll_low delta_ll_high", partial(interval, digits=4)), "Partial r": ("partial_r", number),
        "Words (NaN)": ("n_words n_missing", "{:,} ({:,})".format),
    }  # fmt: skip
    parts: Parts = [dataset, Figure("Each source against reading times.", figures.reading(rows))]
    order = figures.in_order(rows, by="abs_r")
    for protocol in PROTOCOLS:
        part = rows[rows["protocol"] == protocol]
        lines = sorted(records(part), key=lambda row: order.index(row["model"]))
        if lines:
            parts.append(table(f"{protocol.upper()}. {kinds_of(part)}", columns, lines, protocol=protocol))
    return parts


def _reader_parts(slopes: pd.DataFrame) -> Parts:
    """What a bit costs the readers, over all of them; single readers stand in the file."""
    rows = slopes[(slopes["subject"] == "") & (slopes["term"] == "surprisal_bits")]
    if rows.empty:
        return []
    columns: Columns = {
        "Source": ("model", str), "Data set": ("dataset", str), "Protocol": ("protocol", str.upper),
        "Log ms a bit": ("slope", partial(number, digits=4, sign=True)),
        "Interval": ("low high", partial(interval, digits=4)), "p": ("p", p_value),
        "SD over readers": ("sd_subjects", partial(number, digits=4)), "Readers": ("n_subjects", count),
        "Readings": ("n_readings", count),
    }  # fmt: skip
    caption = "Reader by reader: slope of log reading time on surprisal, errors clustered by reader and sentence."
    return ["By reader", table(caption, columns, strict_first(rows), n_words=3)]


def _next_word_parts(rows: pd.DataFrame) -> Parts:
    columns: Columns = {
        "Source": ("model", str), "Kind": ("kind", kind), "Text": ("dataset", str), "Loss": ("loss_nats", number),
        "Perplexity": ("perplexity", partial(number, digits=1)), "Accuracy": ("accuracy", number),
        "Bits a byte": ("bits_per_byte", number), "Perplexity a word": ("word_perplexity", partial(number, digits=0)),
        "Tokens": ("n_tokens", count),
    }  # fmt: skip
    lines = sorted(records(rows), key=lambda row: (row["dataset"], row["bits_per_byte"]))
    return [table("The text of next_word_scores, the best first.", columns, lines, n_words=3)] if lines else []
