"""The two units of work, without Ray: reading a model's features, and scoring them.

A unit is what is computed, stored and resumed as a whole: the features of (model, stimuli, context) and the scores of
(model or control, data set, protocol). Each knows its key, the hash of everything that decides its content.
"""

from __future__ import annotations

import datetime
import json
import subprocess
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from harness import ceilings, contexts, controls, folds, hemodynamics, reading, scoring, surprisal, tables
from harness.checkpoints import Checkpoint
from harness.fitting import Spread, here
from harness.records import Ceiling, Dataset, Features, Floats, Layer, Responses, Stimuli, Surprisals, indices_of
from harness.reduction import Reduction
from harness.rows import BrainRows
from harness.spec import Protocol, content_hash
from harness.store import Store

if TYPE_CHECKING:
    from harness.reader import Reader

# Raise the first when extraction changes what it gives, the second when scoring does: older units are then not reused.
FEATURES_VERSION = 1
SCORES_VERSION = 5


@dataclass(frozen=True)
class Source:
    """Where features come from: a model, its untrained twin, or a control.

    revision: of the checkpoint, or of the content of the `file` that a control needs; "" where there is neither. seed:
    of random weights or features.
    """

    name: str
    kind: Literal["model", "untrained", "control"]
    revision: str
    seed: int
    checkpoint: Checkpoint | None = None
    file: str = ""

    @property
    def identity(self) -> dict[str, Any]:
        """What decides its features; the name of a model does not."""
        if self.checkpoint is None:
            return {"control": self.name, "seed": self.seed, "revision": self.revision}
        if self.kind == "untrained":  # the twins of a base and of its tuned version are one network
            return {"architecture": self.checkpoint.architecture, "seed": self.seed}
        return {"revision": self.revision}


# --- features ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FeatureUnit:
    """Hidden states and surprisals of one model on one text, in one pass, read as the protocol says."""

    source: Source
    stimuli: Stimuli
    protocol: Protocol
    states: bool
    surprisals: bool

    @property
    def key(self) -> str:
        """Hash of model, text, what the protocol says of reading it, and what is kept."""
        text = content_hash([self.stimuli.ids, self.stimuli.texts, self.stimuli.passages])
        how = {name: getattr(self.protocol, name) for name in ("context", "context_words", "pooling", "window")}
        kept = {"states": self.states, "surprisals": self.surprisals, "dtype": "float32"}
        return content_hash({"schema": FEATURES_VERSION, **self.source.identity, **how, **kept, "text": text})[:32]

    def run(self, reader: Reader, store: Store) -> None:
        """Read the text and store what it gives under this unit's key."""
        from safetensors.numpy import save_file

        from harness.extract import extract

        how = self.protocol
        read = [reader.encode(part) for part in contexts.build(self.stimuli, how.context, how.context_words)]
        found = extract(
            reader, read, how.window, pooling=how.pooling, states=self.states, log_probabilities=self.surprisals
        )
        arrays: dict[str, Any] = (
            {str(layer): matrix for layer, matrix in found.features.values.items()} if found.features else {}
        )
        if found.log_probabilities is not None:
            words = surprisal.per_word(read, found.log_probabilities)
            arrays |= {"surprisal_bits": words.bits, "n_tokens": words.n_tokens}
        facts = {"model": self.source.name, "context": how.context, "n_tokens": sum(len(part.ids) for part in read)}
        metadata = {"row_ids": json.dumps([i for part in read for i in part.stimulus_ids])}
        store.put(
            "features", self.key, lambda folder: save_file(arrays, folder / "features.safetensors", metadata), facts
        )


def stored_features(unit: FeatureUnit, store: Store) -> tuple[Features | None, Surprisals | None]:
    """What a finished feature unit holds, under the row ids that were stored with it."""
    from safetensors import safe_open

    with store.open("features", unit.key) as folder, safe_open(folder / "features.safetensors", "numpy") as file:
        ids = tuple(json.loads(file.metadata()["row_ids"]))
        arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
    layers = {_layer(key): arrays[key] for key in arrays if "." in key}
    features = Features(dict(sorted(layers.items())), ids) if unit.states else None
    words = Surprisals(ids, arrays["surprisal_bits"], arrays["n_tokens"]) if unit.surprisals else None
    return features, words


def _layer(key: str) -> Layer:
    stack, index = key.split(".")
    return Layer(stack, int(index))


# --- scores -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ScoreUnit:
    """One source on one data set under one protocol. `features` is None for controls."""

    source: Source
    dataset: str
    dataset_version: str
    protocol: Protocol
    seed: int
    features: FeatureUnit | None = None

    @property
    def key(self) -> str:
        """Hash of source, recording and method. The name is part of it, since it stands in the rows."""
        made_of = {
            "schema": SCORES_VERSION, "name": self.source.name, **self.source.identity, "seed": self.seed,
            "dataset": self.dataset, "version": self.dataset_version, "protocol": self.protocol.hash,
            "wordfreq": version("wordfreq"),
            "features": self.features.key if self.features else None,
        }  # fmt: skip
        return content_hash(made_of)[:32]

    def run(self, dataset: Dataset, ceiling: Ceiling, store: Store, spread: Spread = here) -> None:
        """Score, and store the rows of each table as Parquet under this unit's key (all columns but the run).

        `spread` says who fits the pieces of a scoring.
        """
        if dataset.reading:
            rows = self._reading_rows(dataset, ceiling, store)
        else:
            rows = self._brain_rows(dataset, ceiling, store, spread)

        def write(folder: Path) -> None:
            for table, content in rows.items():
                pq.write_table(tables.rows_to_arrow(table, content), folder / f"{table}.parquet")

        facts = {"model": self.source.name, "dataset": self.dataset, "protocol": self.protocol.name}
        store.put("scores", self.key, write, facts)

    def _brain_rows(
        self, dataset: Dataset, ceiling: Ceiling | None, store: Store, spread: Spread
    ) -> dict[str, list[dict[str, Any]]]:
        responses = dataset.responses
        assert responses is not None and ceiling is not None  # noqa: S101 - the pipeline pairs them
        features, words = self._features(dataset, store)
        fits = scoring.score_layers(features, responses, self.protocol, spread)
        origin = self._origin(self.protocol.metric)
        # A control's variant (OASM's width) is never chosen on held-out scores: a null model is to be given its due.
        protocol = self.protocol if self.features else replace(self.protocol, layer_choice="nested")
        brain = BrainRows(origin, responses, fits, ceiling, protocol, self.seed)
        rows = {"neuroid_scores": brain.neuroids(), "layer_scores": brain.layers(), "model_scores": brain.models()}
        return rows | ({"word_surprisals": self._word_rows(dataset, words)} if words else {})

    def _features(self, dataset: Dataset, store: Store) -> tuple[Features | Reduction, Surprisals | None]:
        """Features on the rows of the responses: joined by id, or carried from words to scans and, by fold, reduced."""
        assert dataset.responses is not None  # noqa: S101
        sampling = self.protocol.sampling
        if self.features:
            features, words = stored_features(self.features, store)
            assert features is not None  # noqa: S101
        else:
            features = controls.features(self.source.name, dataset, self.source.seed, self.source.file)
            words = None
            pool = controls.CONTROLS[self.source.name].pool
            sampling = replace(sampling, pool=pool) if sampling and pool else sampling
        if sampling and not (self.features is None and controls.CONTROLS[self.source.name].row_level):
            if self.protocol.components:
                scans = hemodynamics.scans(dataset.stimuli, dataset.responses, sampling)
                at = indices_of(dataset.stimuli.ids, features.row_ids, "features for the words")
                return Reduction(features, at, scans, self.protocol.components), words
            features = hemodynamics.at_scans(features, dataset.stimuli, dataset.responses, sampling)
        return features, words

    def _reading_rows(self, dataset: Dataset, ceiling: Ceiling, store: Store) -> dict[str, list[dict[str, Any]]]:
        words = stored_features(self.features, store)[1] if self.features else None
        if words:
            predictor = words.bits[indices_of(dataset.stimuli.ids, words.word_ids, "surprisals")]
        else:
            predictor = controls.reading_predictor(self.source.name, dataset, self.source.seed, self.source.file)
        splits = folds.make(self.protocol.folds, dataset.stimuli.groups)
        score = asdict(reading.score(predictor, dataset, self.protocol, splits, self.seed))
        best, (kind,) = float(ceiling.values.item()), ceiling.kinds
        row = {
            **self._origin("pearson_r"), **score, "predictor": "surprisal" if words else self.source.name,
            "ceiling": best, "ceiling_kind": kind, "ratio": abs(score["r"]) / best if best > 0 else np.nan,
        }  # fmt: skip
        rows = {"reading_scores": [row]}
        return rows | ({"word_surprisals": self._word_rows(dataset, words)} if words else {})

    def _word_rows(self, dataset: Dataset, words: Surprisals) -> list[dict[str, Any]]:
        origin, shown = self._origin("surprisal_bits"), dataset.stimuli
        times = dataset.reading.mean_ms if dataset.reading else np.full(len(shown), np.nan)
        scored = dataset.reading.scored if dataset.reading else np.ones(len(shown), dtype=bool)
        at = indices_of(shown.ids, words.word_ids, "surprisals")
        columns = zip(
            shown.passages, shown.ids, shown.texts, words.bits[at], words.n_tokens[at], times, scored, strict=True
        )
        names = ("story", "word_id", "word", "surprisal_bits", "n_tokens", "reading_ms", "scored")
        return [{**origin, **dict(zip(names, row, strict=True))} for row in columns]

    def _origin(self, metric: str) -> dict[str, Any]:
        """The columns that make a row again; the run is added when a run's tables are put together."""
        checkpoint = self.source.checkpoint
        return {
            "run": None, "model": self.source.name, "kind": self.source.kind, "revision": self.source.revision,
            "code_version": code_version(), "created": now(), "dataset": self.dataset,
            "dataset_version": self.dataset_version, "protocol": self.protocol.name,
            "protocol_hash": self.protocol.hash, "context": self.protocol.context,
            "backend": "transformers" if checkpoint else "", "dtype": "float32" if checkpoint else "float64",
            "seed": self.source.seed, "metric": metric,
        }  # fmt: skip


def compute_ceiling(dataset: Dataset, protocol: Protocol, store: Store) -> Ceiling:
    """The ceilings of a recording: from its subjects, those of the brain kept in the store, or published ones."""
    responses = dataset.responses
    if responses is None:
        return _reading_ceiling(dataset)
    parts = responses.parts
    values = np.full((len(parts), len(responses.neuroid_ids)), np.nan)
    kinds = np.full(len(responses.neuroid_ids), "", dtype=object)
    for row, part in enumerate(parts):
        of_part, neuroids = responses.of_part(part)
        known = dataset.known_ceiling(part)
        if not dataset.is_planted:
            values[row, neuroids], kinds[neuroids] = _computed_ceiling(dataset, part, of_part, protocol, store)
        if np.isfinite(known) and np.isnan(values[row]).all():
            values[row, neuroids], kinds[neuroids] = known, dataset.ceiling_source
    return Ceiling(parts, values, tuple(kinds))


def _reading_ceiling(dataset: Dataset) -> Ceiling:
    """One ceiling, as if of one neuroid: from the readers, or the published one where they are not at hand."""
    assert dataset.reading is not None  # noqa: S101 - people's data are one or the other
    values, kinds = ceilings.of_reading(dataset.reading)
    if np.isnan(values).all():
        values, kinds = np.array([dataset.known_ceiling()]), (dataset.ceiling_source,)
    return Ceiling(("",), values[None], kinds)


def _computed_ceiling(
    dataset: Dataset, part: str, responses: Responses, protocol: Protocol, store: Store
) -> tuple[Floats, list[str]]:
    """(neuroid,) ceilings of one experiment from its subjects, and their kinds; NaN and "" where there are too few."""
    made_of = {"schema": SCORES_VERSION, "version": dataset.version, "part": part, "protocol": protocol.hash}
    key = content_hash(made_of)[:32]
    if not store.has("ceilings", key):
        values, kinds = ceilings.of_responses(responses, protocol)
        columns = {"neuroid_id": list(responses.neuroid_ids), "ceiling": values, "kind": list(kinds)}
        facts = {"dataset": dataset.name, "part": part, "protocol": protocol.name}
        store.put("ceilings", key, lambda folder: pq.write_table(pa.table(columns), folder / "ceilings.parquet"), facts)
    with store.open("ceilings", key) as folder:
        found = pq.read_table(folder / "ceilings.parquet")
    at = indices_of(responses.neuroid_ids, found["neuroid_id"].to_pylist(), "ceilings")
    return found["ceiling"].to_numpy()[at], [found["kind"].to_pylist()[i] for i in at]


def now() -> str:
    """The time, UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


@cache
def code_version() -> str:
    """Version of this program, with the commit where it runs from a checkout (".dirty" where files were changed)."""
    found = version("brain-alignment-harness")
    here = Path(__file__).parent
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "--short=10", "HEAD"], cwd=here, capture_output=True, text=True, check=True
        )
        dirty = subprocess.run(
            ["git", "status", "--porcelain", "--", "."], cwd=here.parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return found
    return f"{found}+{commit.stdout.strip()}{'.dirty' if dirty.stdout.strip() else ''}"
