"""RSA and CKA of a recording: which pairs of rows count, what is left out and why, planted truth and noise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.distance import cdist, pdist, squareform
from scipy.stats import spearmanr

from harness.datasets.synthetic import PAPER, STRICT
from harness.kernels.similarity import linear_cka, rsa
from harness.protocol import FoldRule
from harness.records import Features, Layer, Responses
from harness.scoring import folds, similarity, similarity_rows
from harness.scoring.similarity import METRICS, POOLED

N, GROUP_SIZE, SUBJECTS, VOXELS = 90, 6, 4, 5
HELD_OUT = replace(STRICT, folds=FoldRule("grouped", n=5, seed=1, min_test_rows=10))


def _drifting(rng, n_columns, persistence=0.9):
    """(row, column) noise that is alike in neighbouring rows of a group."""
    noise = rng.normal(size=(N, n_columns))
    for row in range(1, N):
        if row % GROUP_SIZE:
            noise[row] = persistence * noise[row - 1] + np.sqrt(1 - persistence**2) * noise[row]
    return noise


def _recording(seed, signal, n_layers=3, n_features=30):
    """Features of some layers, and responses of which the second layer explains the fraction `signal`."""
    rng = np.random.default_rng(seed)
    layers = {Layer("decoder", k): _drifting(rng, n_features).astype(np.float32) for k in range(n_layers)}
    heard = layers[Layer("decoder", 1)] @ rng.normal(size=(n_features, VOXELS)) / np.sqrt(n_features)
    values = [np.sqrt(signal) * heard + np.sqrt(1 - signal) * _drifting(rng, VOXELS) for _ in range(SUBJECTS)]
    ids, groups = tuple(f"s{row}" for row in range(N)), tuple(f"g{row // GROUP_SIZE:02d}" for row in range(N))
    n = SUBJECTS * VOXELS
    responses = Responses(
        np.hstack(values).astype(np.float32), ids, groups, groups, tuple(f"v{k}" for k in range(n)),
        tuple(f"p{k // VOXELS}" for k in range(n)), ("language",) * n, "z",
    )  # fmt: skip
    return Features(layers, ids), responses, heard


def _all(responses):
    return np.arange(len(responses.neuroid_ids))


@pytest.mark.parametrize("metric", METRICS)
def test_strict_compares_pairs_of_a_test_and_a_training_row(metric):
    features, responses, _ = _recording(0, 0.5)
    found = similarity.compare(features, responses, HELD_OUT, _all(responses), metric)
    splits = folds.of_responses(HELD_OUT.folds, responses)
    assert found.values.shape == (3, 5, SUBJECTS)
    for k, (train, test) in enumerate(splits):
        X = features.values[Layer("decoder", 1)].astype(float)
        Y = responses.values[:, VOXELS : 2 * VOXELS].astype(float)
        if metric == "rsa":
            expected = spearmanr(*(cdist(Z[test], Z[train], "correlation").ravel() for Z in (X, Y))).statistic
        else:
            K, L = (((Z[test] - Z[test].mean(0)) @ (Z[train] - Z[train].mean(0)).T).ravel() for Z in (X, Y))
            expected = K @ L / np.sqrt(K @ K * (L @ L))
        assert found.values[1, k, 1] == pytest.approx(expected, abs=1e-9)


def test_the_layer_of_a_fold_is_chosen_by_pairs_of_training_rows_that_other_folds_separate():
    features, responses, _ = _recording(1, 0.5)
    found = similarity.compare(features, responses, HELD_OUT, _all(responses), "rsa")
    splits = folds.of_responses(HELD_OUT.folds, responses)
    tested_in = np.empty(N, dtype=int)
    for k, fold in enumerate(splits):
        tested_in[fold.test] = k
    train = splits[2].train
    apart = np.triu(tested_in[train][:, None] != tested_in[train])
    X, Y = features.values[Layer("decoder", 0)], responses.values[:, :VOXELS]
    expected = spearmanr(*(squareform(pdist(Z[train].astype(float), "correlation"))[apart] for Z in (X, Y))).statistic
    assert found.inner[0, 2, 0] == pytest.approx(expected, abs=1e-9)
    changed = responses.values.copy()
    changed[splits[2].test] = np.random.default_rng(0).normal(size=changed[splits[2].test].shape)
    again = similarity.compare(features, replace(responses, values=changed), HELD_OUT, _all(responses), "rsa")
    assert again.inner[:, 2] == pytest.approx(found.inner[:, 2])  # test rows have no part in the choice
    assert again.values[:, 2] != pytest.approx(found.values[:, 2])


@pytest.mark.parametrize(("metric", "kernel"), [("rsa", rsa), ("cka", linear_cka)])
def test_paper_compares_all_pairs_of_nine_tenths_of_the_rows(metric, kernel):
    features, responses, _ = _recording(2, 0.5)
    found = similarity.compare(features, responses, PAPER, _all(responses), metric)
    assert found.subjects == (POOLED, "p0", "p1", "p2", "p3")
    draws = folds.of_responses(similarity.DRAWS, responses)
    assert {len(draw.test) for draw in draws} == {81}
    X = features.values[Layer("decoder", 2)]
    expected = [kernel(X[draw.test], responses.values[draw.test]) for draw in draws]
    assert found.values[2, :, 0] == pytest.approx(expected, abs=1e-9)
    assert np.isnan(found.inner).all()


def test_draws_and_values_are_those_of_brain_score(shared):
    recorded = np.load(shared / "oracle" / "cka_rdm.npz", allow_pickle=False)
    ids = tuple(map(str, recorded["stimulus_id"]))
    n = recorded["Y"].shape[1]
    responses = Responses(recorded["Y"], ids, ids, ids, tuple(map(str, range(n))), ("p",) * n, ("r",) * n, "z")
    features = Features({Layer("decoder", 0): recorded["X"]}, ids)
    for metric, name in (("cka", "cka"), ("rsa", "rdm")):
        found = similarity.compare(features, responses, PAPER, np.arange(n), metric)
        assert found.values[0, :, 0] == pytest.approx(recorded[f"{name}_per_split"], abs=1e-9)
        assert found.values.mean() == pytest.approx(float(recorded[f"{name}_score"]), abs=1e-9)


def _rows(features, responses, protocol):
    rows = similarity_rows.make({}, features, responses, protocol, METRICS)[1]
    return {row["metric"]: row for row in rows if not row["subject"]}


@pytest.mark.parametrize("metric", METRICS)
def test_the_planted_layer_is_found_and_noise_is_at_0_under_strict_alone(metric):
    planted = [_rows(*_recording(seed, 0.6)[:2], HELD_OUT)[metric] for seed in range(6)]
    assert [row["layer"] for row in planted].count(1) >= 5
    assert np.mean([row["value"] for row in planted]) > 0.15
    noise = [_rows(*_recording(seed, 0.0)[:2], HELD_OUT)[metric] for seed in range(12)]
    values = np.array([row["value"] for row in noise])
    assert abs(values.mean()) < 3 * values.std(ddof=1) / np.sqrt(12)
    assert sum(row["value_low"] > 0 for row in noise) <= 2
    biased = [_rows(*_recording(seed, 0.0)[:2], PAPER)[metric]["value"] for seed in range(3)]
    assert min(biased) > 0.05  # neighbours drift alike in features and responses


@pytest.mark.parametrize("metric", METRICS)
def test_a_perfect_model_reaches_the_ceiling(metric):
    ratios = []
    for seed in range(8):
        _, responses, heard = _recording(seed, 0.6)
        perfect = Features({Layer("decoder", 0): heard.astype(np.float32)}, responses.row_ids)
        row = _rows(perfect, responses, HELD_OUT)[metric]
        ratios.append(row["value"] / row["ceiling"])
        is_clear = row["ceiling_low"] > 0.01
        assert row["ratio"] == pytest.approx(ratios[-1] if is_clear else np.nan, nan_ok=True)
        assert row["ceiling_low"] < row["ceiling"] < row["ceiling_high"]
    assert np.mean(ratios) == pytest.approx(1, abs=0.1)
    of_paper = _rows(perfect, responses, PAPER)[metric]
    assert np.isnan([of_paper["ceiling"], of_paper["ratio"]]).all()


def test_rows_have_each_layer_and_each_subject():
    features, responses, _ = _recording(3, 0.6)
    by_layer, of_source = similarity_rows.make({"seed": 7}, features, responses, HELD_OUT, ["cka"])
    assert [(row["subject"], row["layer"]) for row in by_layer][:4] == [("", 0), ("", 1), ("", 2), ("p0", 0)]
    assert len(by_layer) == 3 * (1 + SUBJECTS)
    assert [row["subject"] for row in of_source] == ["", "p0", "p1", "p2", "p3"]
    whole, subjects = of_source[0], of_source[1:]
    assert whole["value"] == pytest.approx(np.mean([row["value"] for row in subjects]))
    values = np.array([row["value"] for row in subjects])
    assert whole["value_mad"] == pytest.approx(np.median(np.abs(values - np.median(values))))
    assert (whole["n_rows"], whole["n_neuroids"], whole["n_subjects"], whole["seed"]) == (N, 20, SUBJECTS, 7)
    assert sum(row["chosen"] for row in by_layer if not row["subject"]) == 1
    assert whole["value_low"] < whole["value"] < whole["value_high"]


def test_experiments_are_compared_on_their_own_rows():
    features, responses, _ = _recording(4, 0.6)
    half, values = N // 2, responses.values.copy()
    values[:half, :VOXELS] = np.nan  # p0 was in the second experiment only
    parts = ("one",) * half + ("two",) * (N - half)
    rule = replace(HELD_OUT, folds=FoldRule("grouped", n=3, seed=1))
    rows = similarity_rows.make({}, features, replace(responses, values=values, row_parts=parts), rule, ["cka"])[1]
    by_target = {(row["target"], row["subject"]): row for row in rows}
    whole, one, two = (by_target[name, ""] for name in ("all", "one", "two"))
    assert whole["value"] == pytest.approx((one["value"] + two["value"]) / 2)
    assert (whole["n_rows"], one["n_rows"], two["n_rows"]) == (N, half, N - half)
    assert np.isnan(by_target["one", "p0"]["value"])
    assert by_target["one", "p0"]["note"] == "not measured in this experiment"
    assert by_target["all", "p0"]["note"] == ""
    assert by_target["all", "p0"]["value"] == pytest.approx(by_target["two", "p0"]["value"])


def test_what_cannot_be_compared_says_why():
    features, responses, _ = _recording(5, 0.6)
    two = similarity_rows.make({}, features, responses.of(np.arange(N), np.arange(2)), HELD_OUT, METRICS)[1]
    notes = {row["metric"]: row["note"] for row in two if not row["subject"]}
    assert notes == {"rsa": "2 neuroids: dissimilarities are correlations over at least 3", "cka": ""}
    narrow = Features({Layer("length", 0): features.values[Layer("decoder", 0)][:, :1]}, features.row_ids)
    rows = _rows(narrow, responses, HELD_OUT)
    assert rows["rsa"]["note"] == "1 features: dissimilarities are correlations over at least 3"
    assert np.isfinite(rows["cka"]["value"])
    broken = responses.values.copy()
    broken[np.arange(SUBJECTS * VOXELS), np.arange(SUBJECTS * VOXELS)] = np.nan
    rows = _rows(features, replace(responses, values=broken), HELD_OUT)
    assert rows["cka"]["note"] == "no neuroid has a response in every row of the subject"


@pytest.mark.parametrize("protocol", [HELD_OUT, PAPER], ids=["strict", "paper"])
@pytest.mark.parametrize("metric", METRICS)
def test_features_that_do_not_vary_have_no_value(metric, protocol):
    features, responses, _ = _recording(5, 0.6)
    constant = {layer: np.ones_like(matrix) for layer, matrix in features.values.items()}
    row = _rows(Features(constant, features.row_ids), responses, protocol)[metric]
    assert np.isnan([row["value"], row["value_low"], row["value_mad"], row["ratio"]]).all()
    assert row["note"] == "no pairs of rows to compare, or features that do not vary over them"
    one_of_three = Features({**features.values, Layer("decoder", 1): constant[Layer("decoder", 1)]}, features.row_ids)
    assert _rows(one_of_three, responses, protocol)[metric]["layer"] != 1


def test_a_subject_whose_rows_are_all_in_one_fold_has_no_value():
    features, responses, _ = _recording(5, 0.6)
    values = responses.values.copy()
    values[10:, :VOXELS] = np.nan
    blocks = replace(HELD_OUT, folds=FoldRule("contiguous", n=5, gap=2))
    rows = similarity_rows.make({}, features, replace(responses, values=values), blocks, METRICS)[1]
    by_subject = {row["subject"]: row for row in rows if row["metric"] == "cka"}
    assert np.isnan(by_subject["p0"]["value"])
    assert by_subject["p0"]["note"].startswith("no pairs of rows")
    others = [by_subject[name]["value"] for name in ("p1", "p2", "p3")]
    assert by_subject[""]["value"] == pytest.approx(np.mean(others))


def test_rows_without_features_are_left_out_of_rsa():
    """A scan without words has features of 0, and no correlation with others."""
    features, responses, _ = _recording(6, 0.6)
    matrix = features.values[Layer("decoder", 1)].copy()
    matrix[[0, 7]] = 0
    silent = Features({**features.values, Layer("decoder", 1): matrix}, features.row_ids)
    found = similarity.compare(silent, responses, HELD_OUT, _all(responses), "rsa")
    train, test = (np.setdiff1d(rows, [0, 7]) for rows in folds.of_responses(HELD_OUT.folds, responses)[0])
    Y = responses.values[:, :VOXELS].astype(float)
    distances = (cdist(Z[test], Z[train], "correlation").ravel() for Z in (matrix.astype(float), Y))
    assert found.values[1, 0, 0] == pytest.approx(spearmanr(*distances).statistic, abs=1e-9)
    whole = similarity.compare(features, responses, HELD_OUT, _all(responses), "rsa")
    assert found.values[[0, 2]] == pytest.approx(whole.values[[0, 2]])


@pytest.mark.parametrize("protocol", [HELD_OUT, PAPER], ids=["strict", "paper"])
def test_long_recordings_have_the_same_cka_without_a_matrix_of_all_pairs(protocol, monkeypatch):
    features, responses, _ = _recording(7, 0.6)
    whole = similarity.compare(features, responses, protocol, _all(responses), "cka")
    monkeypatch.setattr(similarity, "MOST_ROWS", 10)
    long = similarity.compare(features, responses, protocol, _all(responses), "cka")
    assert long.values == pytest.approx(whole.values, abs=1e-9)
    assert long.inner == pytest.approx(whole.inner, abs=1e-9, nan_ok=True)
    refused = _rows(features, responses, protocol)["rsa"]
    assert refused["note"] == "90 rows: RSA holds all pairs of rows in memory and is left out above 10 rows"
    monkeypatch.setattr(similarity, "MOST_NEUROIDS", 4)
    assert "left out above 4 neuroids" in _rows(features, responses, protocol)["cka"]["note"]


def test_folds_are_compared_in_parts_where_memory_is_short(monkeypatch):
    features, responses, _ = _recording(8, 0.6)
    whole = similarity.compare(features, responses, HELD_OUT, _all(responses), "rsa")
    monkeypatch.setattr(similarity, "_MOST_BYTES", 100_000)
    parts = similarity.compare(features, responses, HELD_OUT, _all(responses), "rsa")
    for name in ("values", "inner", "between"):
        assert getattr(parts, name) == pytest.approx(getattr(whole, name))


def test_two_folds_choose_by_fifths_of_the_training_rows():
    features, responses, _ = _recording(9, 0.9)
    halves = replace(HELD_OUT, folds=FoldRule("contiguous", n=2))
    row = _rows(features, responses, halves)["cka"]
    assert (row["layer"], row["layer_folds"]) == (1, 2)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("protocol", [HELD_OUT, PAPER])
def test_what_all_models_share_is_computed_once_and_again_for_other_responses(metric, protocol, monkeypatch):
    calls, of_responses = [], similarity._of_responses
    monkeypatch.setattr(similarity, "_of_responses", lambda *of: calls.append(1) or of_responses(*of))
    monkeypatch.setattr(similarity, "_kept", type(similarity._kept)())
    one, responses, _ = _recording(9, 0.6)
    other = _recording(10, 0.6)[0]
    first, second = (similarity.compare(each, responses, protocol, _all(responses), metric) for each in (one, other))
    assert len(calls) == 1
    values = responses.values.copy()
    values[3, 2] += 0.1
    moved = replace(responses, values=values)
    third = similarity.compare(other, moved, protocol, _all(moved), metric)
    assert len(calls) == 2
    assert not np.array_equal(third.values, second.values)
    similarity._kept.clear()
    for features, of, found in ((one, responses, first), (other, responses, second), (other, moved, third)):
        alone = similarity.compare(features, of, protocol, _all(of), metric)
        for name in ("values", "inner", "between"):
            np.testing.assert_array_equal(getattr(alone, name), getattr(found, name))
        similarity._kept.clear()
    monkeypatch.setattr(similarity, "_KEPT_BYTES", 100)
    similarity.compare(one, responses, protocol, _all(responses), metric)
    assert not similarity._kept


@pytest.mark.parametrize("protocol", [HELD_OUT, PAPER])
def test_products_of_long_recordings_are_computed_once_and_again_for_other_responses(protocol, monkeypatch):
    calls, products = [], similarity._products
    monkeypatch.setattr(similarity, "_products", lambda X, Y, pairs: calls.append(X is Y) or products(X, Y, pairs))
    monkeypatch.setattr(similarity, "MOST_ROWS", 20)
    monkeypatch.setattr(similarity, "_kept_products", type(similarity._kept_products)())
    one, responses, _ = _recording(9, 0.6)
    other, n_layers = _recording(10, 0.6)[0], len(one.values)
    first = similarity.compare(one, responses, protocol, _all(responses), "cka")
    n_subjects = sum(calls) - n_layers
    assert n_subjects >= 2
    second = similarity.compare(other, responses, protocol, _all(responses), "cka")
    assert sum(calls) == n_subjects + 2 * n_layers
    values = responses.values.copy()
    values[3, 2] += 0.1
    moved = replace(responses, values=values)
    third = similarity.compare(other, moved, protocol, _all(moved), "cka")
    assert sum(calls) == 2 * n_subjects + 3 * n_layers
    for features, of, found in ((one, responses, first), (other, responses, second), (other, moved, third)):
        similarity._kept_products.clear()
        alone = similarity.compare(features, of, protocol, _all(of), "cka")
        np.testing.assert_array_equal(alone.values, found.values)
