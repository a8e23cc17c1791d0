"""Scores of one feature source on one data set under one protocol. Does not use Ray."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import cache, cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from harness.features import controls, hemodynamics
from harness.features.principal_components import Reduction, RowReduction
from harness.protocol import Protocol, Sampling, content_hash
from harness.records import Ceiling, Dataset, Features, Surprisals, indices_of
from harness.scoring import brain_scores as scoring
from harness.scoring import folds, next_word, reader_slopes, reading_times, target_ceilings
from harness.scoring.fitting import FitRunner, run_locally
from harness.scoring.rows import BrainRows, ceiling_row
from harness.scoring.unique_variance import over_controls
from harness.storage import tables
from harness.storage.origin import SCORES_VERSION, code_version, now
from harness.storage.store import Store
from harness.units.feature_units import FeatureSource, FeatureUnit, stored_features

# Features on the rows of responses; reduced ones are computed for each fold.
OnRows = Features | Reduction | RowReduction


@cache
def _wordfreq() -> str:
    """Version of the word frequencies that controls use."""
    return version("wordfreq")


@dataclass(frozen=True)
class ScoreUnit:
    """One feature source on one data set under one protocol.

    Attributes:
        source: the model, variant or control.
        dataset: name of the data set.
        dataset_version: its version.
        protocol: the protocol.
        seed: seed of everything random in scoring.
        features: unit with the model's features; None for controls.
        beside: controls over which the unique variance of a model is computed.
    """

    source: FeatureSource
    dataset: str
    dataset_version: str
    protocol: Protocol
    seed: int
    features: FeatureUnit | None = None
    beside: tuple[FeatureSource, ...] = ()

    @cached_property
    def key(self) -> str:
        """Hash of source, recording and method; the name is included because it is a column of the rows."""
        made_of = {
            "schema": SCORES_VERSION, "name": self.source.name, **self.source.identity, "seed": self.seed,
            "dataset": self.dataset, "version": self.dataset_version, "protocol": self.protocol.hash,
            "wordfreq": _wordfreq(),
            "features": self.features.key if self.features else None,
            "beside": [source.identity for source in self.beside],
        }  # fmt: skip
        return content_hash(made_of)[:32]

    def run(self, dataset: Dataset, ceiling: Ceiling, store: Store, spread: FitRunner = run_locally) -> None:
        """Score, and store the rows of each table as Parquet under this unit's key (all columns except the run).

        Args:
            dataset: the data set.
            ceiling: its ceilings under this protocol.
            store: contains the features; receives the scores.
            spread: executes the fits, in this process or distributed.
        """
        if dataset.responses:
            content = self._brain_tables(dataset, ceiling, store, spread)
        elif dataset.reading:
            content = self._reading_tables(dataset, ceiling, store)
        else:
            content = self._text_tables(dataset, store)

        def write(folder: Path) -> None:
            for name, table in content.items():
                pq.write_table(table, folder / f"{name}.parquet")

        facts = {
            "schema": SCORES_VERSION, "model": self.source.name, "dataset": self.dataset,
            "protocol": self.protocol.name, "features": self.features.key if self.features else None,
        }  # fmt: skip
        store.put("scores", self.key, write, facts)

    def _brain_tables(self, dataset: Dataset, ceiling: Ceiling, store: Store, spread: FitRunner) -> dict[str, pa.Table]:
        responses = dataset.responses
        assert responses is not None  # noqa: S101 - checked by the caller
        features, words = self._features(dataset, store)
        protocol = self.protocol if self.features else self._protocol_of_control()
        fits = scoring.score_layers(features, responses, protocol, spread)
        origin = self._origin(self.protocol.metric, store)
        brain = BrainRows(origin, responses, fits, ceiling, protocol, self.seed)
        if self.beside and isinstance(features, Features) and protocol.metric == "pearson_r":
            unique = over_controls(features, brain.chosen("all").layer, self._controls(dataset), responses, protocol)
            brain = replace(brain, unique=unique)
        by_layer = [tables.columns_to_arrow("neuroid_scores", columns) for columns in brain.neuroids()]
        rows = {"layer_scores": brain.layers(), "model_scores": brain.models()}
        rows |= {"word_surprisals": self._word_rows(dataset, words, store)} if words else {}
        return {"neuroid_scores": pa.concat_tables(by_layer)} | _to_arrow(rows)

    def _protocol_of_control(self) -> Protocol:
        """The protocol for a control: a variant (OASM's width) is chosen on training rows, never on held-out scores."""
        regression = self.protocol.regression
        if controls.CONTROLS[self.source.name].one_unit:
            regression = replace(regression, scale="center")
        return replace(self.protocol, layer_choice="nested", regression=regression)

    def _features(self, dataset: Dataset, store: Store) -> tuple[OnRows, Surprisals | None]:
        """Features on the rows of the responses, and the surprisals from the same forward pass, if any."""
        if self.features is None:
            return self._control_features(self.source, dataset), None
        features, words = stored_features(self.features, store)
        assert features is not None  # noqa: S101 - the unit stores hidden states
        return self._on_rows(features, dataset, self.protocol.sampling), words

    def _control_features(self, source: FeatureSource, dataset: Dataset) -> OnRows:
        """A control's features on the rows of the responses."""
        features, sampling = controls.features(source.name, dataset, source.seed, source.file), self.protocol.sampling
        control = controls.CONTROLS[source.name]
        if control.row_level:
            return features
        sampling = replace(sampling, pool=control.pool or sampling.pool) if sampling else None
        return self._on_rows(features, dataset, sampling)

    def _on_rows(self, features: Features, dataset: Dataset, sampling: Sampling | None) -> OnRows:
        """Map features to the rows of the responses.

        Without `sampling` the stimuli are the rows; with it, words are mapped to scans. Principal components, if any,
        are computed per fold.
        """
        if sampling is None:
            n_components = self.protocol.components
            return RowReduction(features, n_components) if n_components else features
        assert dataset.responses is not None  # noqa: S101 - only responses have scans
        if not self.protocol.components:
            return hemodynamics.at_scans(features, dataset.stimuli, dataset.responses, sampling)
        scans = hemodynamics.scans(dataset.stimuli, dataset.responses, sampling)
        rows = indices_of(dataset.stimuli.ids, features.row_ids, "features for the words")
        return Reduction(features, rows, scans, self.protocol.components)

    def _controls(self, dataset: Dataset) -> dict[str, Features]:
        """Features of the controls for unique variance, by name; controls with per-fold features are left out."""
        controls_by_name = {source.name: self._control_features(source, dataset) for source in self.beside}
        return {name: features for name, features in controls_by_name.items() if isinstance(features, Features)}

    def _reading_tables(self, dataset: Dataset, ceiling: Ceiling, store: Store) -> dict[str, pa.Table]:
        words = stored_features(self.features, store)[1] if self.features else None
        if words:
            predictor = words.bits[indices_of(dataset.stimuli.ids, words.word_ids, "surprisals")]
        else:
            predictor = controls.reading_predictor(self.source.name, dataset, self.source.seed, self.source.file)
        splits = folds.make(self.protocol.folds, dataset.stimuli.groups, dataset.stimuli.repeated())
        score = asdict(reading_times.score(predictor, dataset, self.protocol, splits, self.seed))
        only = target_ceilings.of_single(ceiling)
        row = {
            **self._origin("pearson_r", store), **score, "predictor": "surprisal" if words else self.source.name,
            **ceiling_row(only), "ratio": abs(score["r"]) / only.divisor,
        }  # fmt: skip
        rows = {"reading_scores": [row]}
        if dataset.reading and dataset.reading.by_subject_ms is not None and self.protocol.reading == "regression":
            origin = {**self._origin("log_ms", store), "predictor": row["predictor"]}
            slopes = [{**origin, **asdict(slope)} for slope in reader_slopes.fit(predictor, dataset)]
            rows |= {"reader_slopes": slopes} if slopes else {}
        return _to_arrow(rows | ({"word_surprisals": self._word_rows(dataset, words, store)} if words else {}))

    def _text_tables(self, dataset: Dataset, store: Store) -> dict[str, pa.Table]:
        words = stored_features(self.features, store)[1] if self.features else None
        assert words is not None  # noqa: S101 - only models are scored on a text
        stimuli = dataset.stimuli
        rows = indices_of(words.word_ids, stimuli.ids, "surprisals")
        score = next_word.score(words, [stimuli.texts[row] for row in rows], stimuli.separator)
        return _to_arrow({"next_word_scores": [{**self._origin("loss_nats", store), **asdict(score)}]})

    def _word_rows(self, dataset: Dataset, words: Surprisals, store: Store) -> list[dict[str, Any]]:
        origin, stimuli = self._origin("surprisal_bits", store), dataset.stimuli
        times = dataset.reading.mean_ms if dataset.reading else np.full(len(stimuli), np.nan)
        scored = dataset.reading.scored if dataset.reading else np.ones(len(stimuli), dtype=bool)
        rows = indices_of(stimuli.ids, words.word_ids, "surprisals")
        sentences = stimuli.sentences or (None,) * len(stimuli)
        columns = {
            "passage": stimuli.passages, "sentence": sentences, "word_id": stimuli.ids, "word": stimuli.texts,
            "surprisal_bits": words.bits[rows], "corrected_bits": words.bits[rows] + words.space_bits[rows],
            "n_tokens": words.n_tokens[rows], "entropy_bits": words.entropy_bits[rows], "rank": words.ranks[rows],
            "reading_ms": times, "scored": scored,
        }  # fmt: skip
        values = zip(*columns.values(), strict=True)
        return [{**origin, **dict(zip(columns, row, strict=True))} for row in values]

    def _origin(self, metric: str, store: Store) -> dict[str, Any]:
        """The columns that identify how a row was computed; the run is filled in when its tables are assembled."""
        facts = (store.manifest("features", self.features.key) if self.features else None) or {}
        return {
            "run": None, "model": self.source.name, "kind": self.source.kind, "revision": self.source.revision,
            "code_version": code_version(), "created": now(), "dataset": self.dataset,
            "dataset_version": self.dataset_version, "protocol": self.protocol.name,
            "protocol_hash": self.protocol.hash, "context": self.source.context_of(self.protocol),
            "backend": facts.get("backend", ""), "dtype": facts.get("dtype", "float64"),
            "seed": self.source.seed, "metric": metric,
        }  # fmt: skip


def _to_arrow(rows: dict[str, list[dict[str, Any]]]) -> dict[str, pa.Table]:
    return {table: tables.rows_to_arrow(table, content) for table, content in rows.items()}
