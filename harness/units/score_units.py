"""Scores of one feature source on one data set under one protocol. Does not use Ray."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from harness import metrics
from harness.features import controls, hemodynamics
from harness.features.principal_components import Reduction, RowReduction, feasible
from harness.protocol import Kept, Protocol, Sampling, content_hash
from harness.records import Ceiling, Dataset, Features, Integers, Layer, Responses, Surprisals, indices_of
from harness.scoring import brain_scores as scoring
from harness.scoring import (
    folds,
    held_out,
    next_word,
    permutation,
    reader_slopes,
    reading_times,
    similarity,
    similarity_rows,
    target_ceilings,
)
from harness.scoring.fitting import HERE, Spread
from harness.scoring.held_out import HeldOutFold
from harness.scoring.reading_times import StoryScore
from harness.scoring.rows import BrainRows, ceiling_row
from harness.scoring.unique_variance import over_controls
from harness.storage import tables
from harness.storage.origin import SCORES_VERSION, code_version, now
from harness.storage.store import CorruptUnit, Store
from harness.units import localiser_units
from harness.units.feature_units import FeatureSource, FeatureUnit, stored_embeddings, stored_features
from harness.units.localiser_units import LocaliserUnit

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
        keep: "predictions" and "weights" to store beside the scores of brain recordings.
        localiser: unit by which the source's units are chosen; None for whole layers.
    """

    source: FeatureSource
    dataset: str
    dataset_version: str
    protocol: Protocol
    seed: int
    features: FeatureUnit | None = None
    beside: tuple[FeatureSource, ...] = ()
    keep: tuple[Kept, ...] = ()
    localiser: LocaliserUnit | None = None

    @property
    def needs(self) -> tuple[FeatureUnit | LocaliserUnit, ...]:
        """The units that a model has to extract before this one can be scored."""
        return tuple(unit for unit in (self.features, self.localiser) if unit)

    @cached_property
    def key(self) -> str:
        """Hash of source, recording and method; the name is included because it is a column of the rows."""
        return self._hash({"name": self.source.name})

    @cached_property
    def content(self) -> str:
        """The same without the name: units of one content differ in the names of their rows only.

        The untrained controls of a base, its tuned versions and its checkpoints are one network, scored once.
        """
        return self._hash({"kind": self.source.kind})

    def _hash(self, named: dict[str, str]) -> str:
        made_of = {
            "schema": SCORES_VERSION, **named, **self.source.identity, "seed": self.seed,
            "dataset": self.dataset, "version": self.dataset_version, "protocol": self.protocol.hash,
            "wordfreq": _wordfreq(),
            "features": self.features.key if self.features else None,
            "beside": [source.identity for source in self.beside],
        }  # fmt: skip
        if self.localiser and self.source.n_units:
            made_of["units"] = [self.localiser.key, self.source.n_units.text, self._draw_seed]
        if version_of_metric := metrics.version_of(self.protocol.metric):
            made_of["metric"] = version_of_metric
        return content_hash(made_of | ({"keep": sorted(self.keep)} if self.keep else {}))[:32]

    @property
    def _draw_seed(self) -> int | None:
        """Seed of random units; None for localised ones."""
        return self.source.seed if self.source.kind == "random units" else None

    def run(self, dataset: Dataset, ceiling: Ceiling, store: Store, spread: Spread = HERE) -> None:
        """Score, and store the rows of each table as Parquet under this unit's key (all columns except the run).

        What is to be kept is stored as `predictions.npz` and `weights.npz` beside them (units/README.md), and the
        chosen units, if any, as `units.npz`.

        Args:
            dataset: the data set.
            ceiling: its ceilings under this protocol.
            store: contains the features; receives the scores.
            spread: executes the fits, in this process or distributed.
        """
        arrays: dict[str, dict[str, Any]] = {}
        if dataset.responses:
            content, arrays = self._brain_tables(dataset, ceiling, store, spread)
        elif dataset.reading:
            content = self._reading_tables(dataset, ceiling, store)
        else:
            content = self._text_tables(dataset, store)

        if self.localiser:
            arrays["units"] = localiser_units.as_arrays(
                localiser_units.stored_t(self.localiser, store), self.chosen_units(store)
            )

        def write(folder: Path) -> None:
            for name, table in content.items():
                pq.write_table(table, folder / f"{name}.parquet")
            for name, content_of in arrays.items():
                np.savez(folder / f"{name}.npz", **content_of)

        store.put("scores", self.key, write, self._facts)

    def take_from(self, other: ScoreUnit, store: Store) -> bool:
        """Store the scores of another unit of the same `content` with this one's names; False if they are damaged."""
        names = {"model": self.source.name, "revision": self.source.revision}

        def write(folder: Path) -> None:
            for file in (file for file in found.iterdir() if file.suffix in {".parquet", ".npz"}):
                if file.suffix == ".npz":
                    shutil.copyfile(file, folder / file.name)
                    continue
                table = pq.read_table(file)
                for column in names.keys() & set(table.column_names):
                    values = pa.repeat(names[column], len(table)).cast(table.schema.field(column).type)
                    table = table.set_column(table.column_names.index(column), table.schema.field(column), values)
                pq.write_table(table, folder / file.name)

        try:
            with store.open("scores", other.key) as found:
                store.put("scores", self.key, write, self._facts)
        except (CorruptUnit, FileNotFoundError):
            return False
        return True

    @property
    def _facts(self) -> dict[str, Any]:
        """For the manifest."""
        return {
            "schema": SCORES_VERSION, "model": self.source.name, "dataset": self.dataset,
            "protocol": self.protocol.name, "features": self.features.key if self.features else None,
        }  # fmt: skip

    def _brain_tables(
        self, dataset: Dataset, ceiling: Ceiling, store: Store, spread: Spread
    ) -> tuple[dict[str, pa.Table], dict[str, dict[str, Any]]]:
        """The tables of a brain recording, and the arrays to keep."""
        responses = dataset.responses
        assert responses is not None  # noqa: S101 - checked by the caller
        features, words = self._features(dataset, store)
        protocol = self.protocol if self.features else self._protocol_of_control()
        if "weights" in self.keep:
            held_out.require_fixed_features(features, protocol)
        fits = scoring.score_layers(features, responses, protocol, spread.layers)
        origin = self._origin(self.protocol.metric, store)
        brain = BrainRows(origin, responses, fits, ceiling, protocol, self.seed)
        if self.beside and isinstance(features, Features) and protocol.metric == "pearson_r":
            beside = self._controls(dataset) | self._embeddings(dataset, store)
            unique = over_controls(features, brain.chosen("all").layer, beside, responses, protocol, spread.blocks)
            brain = replace(brain, unique=unique)
        by_fold: list[HeldOutFold] = []
        if permutation.applies(protocol.folds) or "predictions" in self.keep:
            by_fold = held_out.predict(features, responses, protocol, brain.by_fold.chosen_layers, spread.calls)
        if permutation.applies(protocol.folds):
            correlation = next(iter(fits.values())).fold_correlation
            brain = replace(brain, tests=permutation.test_neuroids(by_fold, responses, correlation, self.seed))
        rows = {
            "layer_scores": brain.layers(),
            "model_scores": brain.models(),
            "fold_scores": brain.by_fold.of_subjects(),
        }
        rows |= self._similarities(features, responses, dataset, store)
        rows |= {"word_surprisals": self._word_rows(dataset, words, store)} if words else {}
        content = {"neuroid_scores": _concatenated("neuroid_scores", brain.neuroids())}
        content |= {"split_scores": _concatenated("split_scores", brain.by_fold.of_neuroids())} | _to_arrow(rows)
        return content, self._kept(features, responses, protocol, brain, by_fold)

    def _similarities(
        self, features: OnRows, responses: Responses, dataset: Dataset, store: Store
    ) -> dict[str, list[dict[str, Any]]]:
        """RSA and CKA of the features, without reduction to components; not under EQUAL, whose aim is that reduction.

        Under BRAINSCORE2026 they are those of PAPER, but for the texts.
        """
        if self.protocol.name == "equal":
            return {}
        if not isinstance(features, Features):
            features, _ = replace(self, protocol=replace(self.protocol, components=0))._features(dataset, store)
        assert isinstance(features, Features)  # noqa: S101 - only components depend on the fold
        compares_all_pairs = self.protocol.layer_choice == "max" and len(responses.row_ids) <= similarity.MOST_ROWS
        if self.source.name == "oasm" and compares_all_pairs:  # also where it is not fitted
            features = controls.oasm(responses)
        origin = self._origin("", store)
        by_layer, of_source = similarity_rows.make(origin, features, responses, self.protocol, similarity.METRICS)
        return {"similarity_layers": by_layer, "similarity_scores": of_source}

    def _kept(
        self, features: OnRows, responses: Responses, protocol: Protocol, brain: BrainRows, by_fold: list[HeldOutFold]
    ) -> dict[str, dict[str, Any]]:
        """File -> arrays of what is to be kept."""
        kept: dict[str, dict[str, Any]] = {}
        if "predictions" in self.keep:
            kept["predictions"] = held_out.as_arrays(by_fold, responses)
        if "weights" in self.keep:
            layer = brain.chosen("all").layer
            weights = held_out.mean_weights(features, responses, protocol, features.layers.index(layer))
            kept["weights"] = {
                "weights": weights, "neuroid_id": np.array(responses.neuroid_ids), "layer": np.array(str(layer)),
            }  # fmt: skip
        return kept

    def _protocol_of_control(self) -> Protocol:
        """The protocol for a control.

        A variant (OASM's width) is chosen on training rows, never on held-out scores. Columns of different units are
        z-scored where the protocol puts all columns on one scale.
        """
        regression, control = self.protocol.regression, controls.find(self.source.name)
        if control.one_unit and control.row_level:
            regression = replace(regression, scale="center")
        elif regression.relative and not control.one_unit:
            regression = replace(regression, scale="zscore")
        return replace(self.protocol, layer_choice="nested", regression=regression)

    def _features(self, dataset: Dataset, store: Store) -> tuple[OnRows, Surprisals | None]:
        """Features on the rows of the responses, and the surprisals from the same forward pass, if any."""
        if self.features is None:
            return self._control_features(self.source, dataset), None
        features, words = stored_features(self.features, store)
        assert features is not None  # noqa: S101 - the unit stores hidden states
        if self.localiser:  # the words' surprisals are those of the whole network
            features, words = localiser_units.of_units(features, self.chosen_units(store)), None
        return self._on_rows(features, dataset, self.protocol.sampling), words

    def chosen_units(self, store: Store) -> dict[Layer, Integers]:
        """Layer -> (chosen,) indices of the localised or random units."""
        assert self.localiser and self.source.n_units  # noqa: S101 - only for chosen units
        t_by_layer = localiser_units.stored_t(self.localiser, store)
        return localiser_units.choose(t_by_layer, self.source.n_units, self._draw_seed)

    def _control_features(self, source: FeatureSource, dataset: Dataset) -> OnRows:
        """A control's features on the rows of the responses."""
        if source.name == "oasm" and dataset.responses and not fits_oasm(self.protocol, dataset):
            return controls.unfitted_oasm(dataset.responses)
        features, sampling = controls.features(source.name, dataset, source.seed, source.file), self.protocol.sampling
        control = controls.find(source.name)
        is_own_of_rows = control.compute and dataset.responses and features.row_ids == dataset.responses.row_ids
        if control.row_level or is_own_of_rows:
            return features
        if sampling and control.pool and not sampling.is_filter:
            sampling = replace(sampling, pool=control.pool)
        return self._on_rows(features, dataset, sampling)

    def _on_rows(self, features: Features, dataset: Dataset, sampling: Sampling | None) -> OnRows:
        """Map features to the rows of the responses.

        Without `sampling` the stimuli are the rows; with it, words are mapped to scans. Principal components, if any,
        are computed per fold.
        """
        assert dataset.responses is not None  # noqa: S101 - only responses have rows
        if not self.protocol.components:
            if sampling is None:
                return features
            return hemodynamics.at_scans(features, dataset.stimuli, dataset.responses, sampling)
        training = [fold.train for _, fold in folds.of_recording(self.protocol.folds, dataset)]
        if sampling is None:
            return RowReduction(features, feasible(self.protocol.components, training))
        scans = hemodynamics.scans(dataset.stimuli, dataset.responses, sampling)
        rows = indices_of(dataset.stimuli.ids, features.row_ids, "features for the words")
        components = feasible(self.protocol.components, [scans.words_of(train) for train in training])
        return Reduction(features, rows, scans, components)

    def _controls(self, dataset: Dataset) -> dict[str, Features]:
        """Features of the controls for unique variance, by name.

        Controls with per-fold features are left out, and OASM where it is not fitted.
        """
        beside = [source for source in self.beside if source.name != "oasm" or fits_oasm(self.protocol, dataset)]
        controls_by_name = {source.name: self._control_features(source, dataset) for source in beside}
        return {name: features for name, features in controls_by_name.items() if isinstance(features, Features)}

    def _embeddings(self, dataset: Dataset, store: Store) -> dict[str, Features]:
        """The model's own input embeddings on the rows of the responses, by name; a control of unique variance only."""
        embeddings = stored_embeddings(self.features, store) if self.features else None
        on_rows = self._on_rows(embeddings, dataset, self.protocol.sampling) if embeddings else None
        return {controls.EMBEDDINGS: on_rows} if isinstance(on_rows, Features) else {}

    def _reading_tables(self, dataset: Dataset, ceiling: Ceiling, store: Store) -> dict[str, pa.Table]:
        words = stored_features(self.features, store)[1] if self.features else None
        if words:
            predictor = words.bits[indices_of(dataset.stimuli.ids, words.word_ids, "surprisals")]
        else:
            predictor = controls.reading_predictor(self.source.name, dataset, self.source.seed, self.source.file)
        splits = folds.make(self.protocol.folds, dataset.stimuli.groups, dataset.stimuli.repeated())
        result = reading_times.score(predictor, dataset, self.protocol, splits, self.seed)
        score = {name: value for name, value in asdict(result).items() if name != "stories"}
        only = target_ceilings.of_single(ceiling)
        row = {
            **self._origin("pearson_r", store), **score, "predictor": "surprisal" if words else self.source.name,
            **ceiling_row(only), "ratio": abs(score["r"]) / only.divisor,
        }  # fmt: skip
        rows = {"reading_scores": [row], "fold_scores": self._story_rows(result.stories, store)}
        if dataset.reading and dataset.reading.by_subject_ms is not None and self.protocol.reading == "regression":
            origin = {**self._origin("log_ms", store), "predictor": row["predictor"]}
            slopes = [{**origin, **asdict(slope)} for slope in reader_slopes.fit(predictor, dataset)]
            rows |= {"reader_slopes": slopes} if slopes else {}
        return _to_arrow(rows | ({"word_surprisals": self._word_rows(dataset, words, store)} if words else {}))

    def _story_rows(self, stories: Sequence[StoryScore], store: Store) -> list[dict[str, Any]]:
        """Rows of `fold_scores`; stories are numbered as in the text."""
        numbers = {name: k for k, name in enumerate(dict.fromkeys(story.story for story in stories))}
        return [
            {
                **self._origin(story.metric, store), "target": "reading", "part": "", "fold": numbers[story.story],
                "held_out": story.story, "subject": "", "score": story.score, "n_averaged": story.n_words,
                "fold_correlation": 0.0,
            }
            for story in stories
        ]  # fmt: skip

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


def fits_oasm(protocol: Protocol, dataset: Dataset) -> bool:
    """Whether OASM is fitted: it could predict something, and its matrices of rows by rows are not too large."""
    assert dataset.responses is not None  # noqa: S101 - reading times have no such control
    n_rows = len(dataset.responses.row_ids)
    return n_rows <= controls.MOST_OASM_ROWS and folds.share_blocks(protocol.folds, dataset)


def _concatenated(table: str, chunks: Iterable[dict[str, Any]]) -> pa.Table:
    return pa.concat_tables([tables.columns_to_arrow(table, columns) for columns in chunks])


def _to_arrow(rows: dict[str, list[dict[str, Any]]]) -> dict[str, pa.Table]:
    return {table: tables.rows_to_arrow(table, content) for table, content in rows.items()}
