"""RSA and CKA that a run stores, from texts through a real model, against SciPy's distances and explicit centring."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy.spatial.distance import cdist, pdist
from scipy.stats import spearmanr
from sklearn.model_selection import KFold, ShuffleSplit

from harness.checkpoints import checkpoints
from harness.datasets import tuckute2024
from harness.extraction import backends
from harness.records import Ceiling, Dataset, Layer, Stimuli
from harness.storage.store import Store
from harness.units.feature_units import FeatureSource, FeatureUnit, stored_features
from harness.units.score_units import ScoreUnit

N = 200  # of the 1,000 sentences
RULES = {"paper": tuckute2024.PAPER, "strict": tuckute2024.STRICT}


@pytest.fixture(scope="module")
def recording(shared):
    """The first sentences of Tuckute2024, and the five regions without their network."""
    whole = tuckute2024.load(shared / "data")
    responses = whole.responses.of(np.arange(N), np.arange(len(whole.responses.neuroid_ids)))
    stimuli = Stimuli(*(column[:N] for column in (whole.stimuli.ids, whole.stimuli.texts, whole.stimuli.passages)))
    return Dataset("tuckute2024", "first", stimuli, responses)


@pytest.fixture(scope="module")
def run(shared, recording, tmp_path_factory):
    """Protocol -> (layer -> features, table -> rows)."""
    store = Store(str(tmp_path_factory.mktemp("store")))
    checkpoint = checkpoints.resolve(str(shared / "models" / "stories260K"))
    source = FeatureSource("stories260K", "model", checkpoint.revision, 0, checkpoint)
    results = {}
    for name, protocol in RULES.items():
        unit = FeatureUnit(source, recording.stimuli, protocol, states=True, surprisals=False)
        if store.manifest("features", unit.key) is None:
            unit.run(backends.load("transformers", checkpoint, "cpu"), store)
        score = ScoreUnit(source, "tuckute2024", "first", protocol, 0, features=unit)
        unknown = Ceiling(("",), np.full((1, 6), np.nan), ("",) * 6)
        score.run(recording, unknown, store)
        with store.open("scores", score.key) as folder:
            tables = {
                table: pq.read_table(folder / f"similarity_{table}.parquet").to_pandas()
                for table in ("layers", "scores")
            }
        features, _ = stored_features(unit, store)
        assert features.row_ids == recording.stimuli.ids
        results[name] = ({k: features.values[Layer("decoder", k)].astype(float) for k in range(6)}, tables)
    return results


def _spearman(x, y):
    """Layer 0 is the same for sentences with the same last token; without `round`, rounding errors break such ties."""
    return spearmanr(x.ravel().round(12), y.ravel().round(12)).statistic


def _rdm_correlation(X, Y):
    return _spearman(pdist(X, "correlation"), pdist(Y, "correlation"))


def _cka(X, Y):
    H = np.eye(len(X)) - 1 / len(X)
    K, L = (H @ Z @ Z.T @ H for Z in (X, Y))
    return np.sum(K * L) / np.sqrt(np.sum(K * K) * np.sum(L * L))


def _held_out_rdm_correlation(X, Y, train, test):
    return _spearman(*(cdist(Z[test], Z[train], "correlation") for Z in (X, Y)))


def _held_out_cka(X, Y, train, test):
    K, L = (((Z[test] - Z[test].mean(0)) @ (Z[train] - Z[train].mean(0)).T).ravel() for Z in (X, Y))
    return K @ L / np.sqrt(K @ K * (L @ L))


@pytest.mark.parametrize("metric", ["rsa", "cka"])
def test_paper_equals_scipy_over_ten_draws_of_nine_tenths(metric, run, recording):
    features, tables = run["paper"]
    Y = recording.responses.values[:, :5].astype(float)
    draws = [rows for _, rows in ShuffleSplit(10, test_size=0.9, random_state=1).split(Y)]
    measure = {"rsa": _rdm_correlation, "cka": _cka}[metric]
    expected = {k: np.mean([measure(X[rows], Y[rows]) for rows in draws]) for k, X in features.items()}
    stored = tables["layers"].query("metric == @metric and subject == ''").set_index("layer")["value"].to_dict()
    assert stored == pytest.approx(expected, abs=1e-9)
    (row,) = tables["scores"].query("metric == @metric and subject == ''").to_dict("records")
    assert row["layer"] == max(expected, key=expected.__getitem__)
    assert row["value"] == pytest.approx(max(expected.values()), abs=1e-9)
    assert (row["n_rows"], row["n_neuroids"], row["n_features"], row["model"]) == (N, 5, 64, "stories260K")


@pytest.mark.parametrize("metric", ["rsa", "cka"])
def test_strict_equals_scipy_over_pairs_of_a_test_and_a_training_row(metric, run, recording):
    features, tables = run["strict"]
    Y = recording.responses.values[:, :5].astype(float)
    rule = tuckute2024.STRICT.folds
    splits = list(KFold(rule.n, shuffle=True, random_state=rule.seed).split(Y))
    measure = {"rsa": _held_out_rdm_correlation, "cka": _held_out_cka}[metric]
    values = np.array([[measure(X, Y, *split) for split in splits] for X in features.values()])
    stored = tables["layers"].query("metric == @metric and subject == ''").set_index("layer")["value"]
    assert stored.to_numpy() == pytest.approx(values.mean(axis=1), abs=1e-9)
    (row,) = tables["scores"].query("metric == @metric and subject == ''").to_dict("records")
    # Each fold has the value of one of the layers, chosen without its test rows.
    assert values.min(axis=0).mean() - 1e-9 <= row["value"] <= values.max(axis=0).mean() + 1e-9
    assert 1 <= row["layer_folds"] <= 10
    assert row["value_low"] < row["value"] < row["value_high"]


def test_equal_has_no_similarities_of_its_own(recording, tmp_path):
    length = FeatureSource("length", "control", "", 0)
    equal = replace(tuckute2024.STRICT, name="equal", components=1)
    unit = ScoreUnit(length, "tuckute2024", "first", equal, 0)
    unit.run(recording, Ceiling(("",), np.full((1, 6), np.nan), ("",) * 6), Store(str(tmp_path)))
    with Store(str(tmp_path)).open("scores", unit.key) as folder:
        assert not list(folder.glob("similarity*"))
        assert list(folder.glob("model_scores*"))


def test_components_of_a_protocol_do_not_reduce_what_is_compared(recording, tmp_path):
    """Wehbe2014's PAPER reduces features to components for its regression; RSA and CKA are of the features."""
    random = FeatureSource("random", "control", "", 0)
    values = []
    for components in (0, 3):
        protocol = replace(tuckute2024.PAPER, components=components)
        unit, store = ScoreUnit(random, "tuckute2024", "first", protocol, 0), Store(str(tmp_path))
        unit.run(recording, Ceiling(("",), np.full((1, 6), np.nan), ("",) * 6), store)
        with store.open("scores", unit.key) as folder:
            values.append(pq.read_table(folder / "similarity_scores.parquet").to_pandas()["value"].to_numpy())
    assert values[0] == pytest.approx(values[1], nan_ok=True)
    assert np.isfinite(values[0]).all()
