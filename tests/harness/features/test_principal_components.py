"""The paper's pipeline for Wehbe2014, against a slow implementation word by word and scan by scan."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.model_selection import KFold

from harness import datasets
from harness.datasets.wehbe2014 import PAPER
from harness.features import hemodynamics, principal_components
from harness.features.principal_components import Reduction, RowReduction
from harness.protocol import FoldRule, equal_dimension
from harness.records import Features, Layer, Responses
from harness.scoring import brain_scores, folds
from tests.harness.datasets.wehbe_files import write

LAYER = Layer("decoder", 1)
HIDDEN = 24


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write(tmp_path_factory.mktemp("wehbe"))


@pytest.fixture(scope="module")
def dataset(root):
    """The recording, with some voxels computed from the hidden states."""
    loaded = datasets.load("wehbe2014", root)
    X = hemodynamics.at_scans(states(loaded), loaded.stimuli, loaded.responses, PAPER.sampling).values[LAYER][:]
    rng, values = np.random.default_rng(2), loaded.responses.values.copy()
    values[:, :8] += X @ rng.standard_normal((X.shape[1], 8)) / 20
    return replace(loaded, responses=replace(loaded.responses, values=values))


def states(loaded):
    """Word vectors with a few large directions, as in language models; rows are not in word order."""
    rng = np.random.default_rng(1)
    values = rng.standard_normal((len(loaded.stimuli), HIDDEN)) * np.logspace(2, -1, HIDDEN)
    rotated = values @ np.linalg.qr(rng.standard_normal((HIDDEN, HIDDEN)))[0] + 3
    return Features({LAYER: rotated[::-1].astype(np.float32)}, loaded.stimuli.ids[::-1])


def reduced(dataset, protocol=PAPER):
    features = states(dataset)
    scans = hemodynamics.scans(dataset.stimuli, dataset.responses, protocol.sampling)
    return Reduction(features, np.arange(len(dataset.stimuli))[::-1], scans, protocol.components)


class Slow:
    """An independent implementation from the published arrays; only the folds are ours."""

    def __init__(self, root, words):
        folder = root / "wehbe2014" / "fMRI"
        self.times, self.runs, onsets = (np.load(folder / f"{n}_fmri.npy") for n in ("time", "runs", "time_words"))
        self.words = words.astype(float)
        self.scan_of = np.array([np.flatnonzero(self.times < onset)[-1] for onset in onsets])
        self.scan_of[:20] = -1  # skipped
        self.kept = np.concatenate([np.flatnonzero(self.runs == run)[20:-15] for run in range(1, 5)])

    def features(self, train):
        """(row, 40) features of the kept rows."""
        training_words = np.isin(self.scan_of, self.kept[train])
        vectors = PCA(10, svd_solver="full").fit(self.words[training_words]).transform(self.words)
        scans = np.zeros((len(self.times), 10))
        for scan in range(len(self.times)):
            if (self.scan_of == scan).any():
                scans[scan] = vectors[self.scan_of == scan].mean(axis=0)
        rows = np.array([np.concatenate([scans[row - delay] for delay in (1, 2, 3, 4)]) for row in self.kept])
        for run in range(1, 5):
            mine = self.runs[self.kept] == run
            rows[mine] = (rows[mine] - rows[mine].mean(axis=0)) / rows[mine].std(axis=0)
        return rows


def zscore(values):
    return (values - values.mean(axis=0)) / values.std(axis=0)


@pytest.fixture(scope="module")
def slow(root, dataset):
    return Slow(root, states(dataset).values[LAYER][::-1])


@pytest.fixture(scope="module")
def fit(dataset):
    return brain_scores.score_layers(reduced(dataset), dataset.responses, PAPER)[LAYER]


@pytest.fixture(scope="module")
def by_fold(dataset, slow):
    """Per fold: features and responses of training and test rows, z-scored separately."""
    Y, found = dataset.responses.values.astype(float), []
    for train, test in folds.make(PAPER.folds, dataset.responses.row_groups):
        X = slow.features(train)
        found.append(tuple(zscore(part) for part in (X[train], X[test], Y[train], Y[test])))
    return found


def test_features_of_every_fold_equal_the_slow_implementation(dataset, slow):
    for train, _ in folds.make(PAPER.folds, dataset.responses.row_groups):
        ours, theirs = reduced(dataset).of(train)[0], slow.features(train)
        assert ours.shape == theirs.shape == (1_211, 40)
        sign = np.sign((ours * theirs).sum(axis=0))  # a component may stand for its opposite
        np.testing.assert_allclose(ours * sign, theirs, atol=1e-6)


def test_scores_of_every_fold_and_voxel_equal_the_slow_implementation_at_the_same_alpha(fit, by_fold):
    assert fit.r.shape == (4, 44)
    assert len(set(fit.alpha.ravel())) > 3
    for fold, (X, X_test, Y, Y_test) in enumerate(by_fold):
        for voxel in range(Y.shape[1]):
            weights = np.linalg.solve(X.T @ X + fit.alpha[fold, voxel] * np.eye(40), X.T @ Y[:, voxel])
            r = np.corrcoef(X_test @ weights, Y_test[:, voxel])[0, 1]
            assert fit.r[fold, voxel] == pytest.approx(r, abs=1e-6)


def test_alpha_is_that_of_ten_blocks_of_training_rows_in_order(fit, by_fold):
    grid = np.array(PAPER.regression.alphas)
    for fold, (X, _, Y, _) in enumerate(by_fold):
        errors = np.zeros((len(grid), Y.shape[1]))
        for inside, outside in KFold(10).split(X):
            x, y = X[inside] - X[inside].mean(axis=0), Y[inside] - Y[inside].mean(axis=0)
            for k, alpha in enumerate(grid):
                weights = np.linalg.solve(x.T @ x + alpha * np.eye(40), x.T @ y)
                predicted = Y[inside].mean(axis=0) + (X[outside] - X[inside].mean(axis=0)) @ weights
                errors[k] += ((Y[outside] - predicted) ** 2).sum(axis=0)
        np.testing.assert_array_equal(fit.alpha[fold], grid[errors.argmin(axis=0)])


def test_the_published_code_s_choice_of_alpha_changes_little(fit, by_fold):
    """The published code sums error / variance over the inner folds, without centring them."""
    chosen, r = np.empty(fit.alpha.shape), np.empty(fit.r.shape)
    for fold, (X, X_test, Y, Y_test) in enumerate(by_fold):
        cost = np.zeros((16, Y.shape[1]))
        for inside, outside in KFold(10).split(X):
            for k, alpha in enumerate(PAPER.regression.alphas):
                weights = np.linalg.solve(X[inside].T @ X[inside] + alpha * np.eye(40), X[inside].T @ Y[inside])
                cost[k] += ((Y[outside] - X[outside] @ weights) ** 2).mean(axis=0) / Y[outside].var(axis=0)
        for voxel, k in enumerate(cost.argmin(axis=0)):
            chosen[fold, voxel] = alpha = PAPER.regression.alphas[k]
            weights = np.linalg.solve(X.T @ X + alpha * np.eye(40), X.T @ Y[:, voxel])
            r[fold, voxel] = np.corrcoef(X_test @ weights, Y_test[:, voxel])[0, 1]
    made_from_states = np.arange(44) < 8
    assert (chosen != fit.alpha).mean() < 0.25
    assert np.abs(r - fit.r)[:, made_from_states].max() < 0.01
    assert abs(np.median(r) - np.median(fit.r)) < 0.01


def test_planted_voxels_are_predicted_and_others_are_not(fit):
    assert fit.r[:, :8].min() > 0.2
    assert abs(np.median(fit.r[:, 8:])) < 0.05


def test_words_of_test_rows_do_not_move_the_components(dataset):
    """Nor do skipped words and words of removed scans."""
    fold = folds.make(PAPER.folds, dataset.responses.row_groups)[1]
    words = reduced(dataset).of(fold.train).train
    onsets = dataset.stimuli.onsets_s[words]
    time = dataset.responses.times_s
    assert len(words) == 4 * len(fold.train)
    assert not ((onsets > time[fold.test[0]]) & (onsets <= time[fold.test[-1]] + 2)).any()
    assert onsets.min() > time[0]


def test_components_are_exact_and_few_columns_are_left_as_they_are():
    rng = np.random.default_rng(0)
    words = (rng.standard_normal((300, 40)) * np.r_[1e4, np.ones(39)]).astype(np.float32)
    train = np.arange(50, 250)
    ours = principal_components.components(words, train, 10)
    theirs = PCA(10, svd_solver="full").fit(words[train].astype(float)).transform(words)
    np.testing.assert_allclose(abs(ours), abs(theirs), rtol=1e-8, atol=1e-8)
    np.testing.assert_array_equal(principal_components.components(words[:, :10], train, 10), words[:, :10])
    with pytest.raises(ValueError, match="10 training rows for 10 components"):
        principal_components.components(words, train[:10], 10)


def test_components_of_rows_that_are_all_the_same_are_zero():
    values = np.full((12, 9), 0.3, dtype=np.float32)
    values[11] = 5.0  # a test row
    assert not principal_components.components(values, np.arange(10), 4).any()


def test_each_layer_is_reduced_by_itself(dataset):
    features = states(dataset)
    two = Features(
        {LAYER: features.values[LAYER], Layer("decoder", 2): features.values[LAYER][:, :4]}, features.row_ids
    )
    both = replace(reduced(dataset), words=two)
    fits = brain_scores.score_layers(both, dataset.responses, PAPER)
    assert [fit.n_features for fit in fits.values()] == [40, 16]
    assert [fit.rank.tolist() for fit in fits.values()] == [[40] * 4, [16] * 4]
    # A single layer uses all threads, which changes the order of sums.
    alone = brain_scores.score_layers(reduced(dataset), dataset.responses, PAPER)[LAYER]
    np.testing.assert_allclose(fits[LAYER].r, alone.r, rtol=0, atol=1e-12)


# --- the protocol EQUAL: rows are those of the responses --------------------------------------------------------------


def recording(seed=0, n=120, hidden=70):
    """Sentences in eight topics with responses computed from the hidden states; feature rows are in another order."""
    rng = np.random.default_rng(seed)
    X = (rng.standard_normal((n, hidden)) * np.logspace(1, -1, hidden)).astype(np.float32)
    Y = X[:, :6] @ rng.standard_normal((6, 5)) + rng.standard_normal((n, 5))
    ids = tuple(f"s{i}" for i in range(n))
    groups = tuple(f"topic{i // 10}" for i in range(n))
    responses = Responses(Y.astype(np.float32), ids, groups, groups, tuple("abcde"), ("one",) * 5, ("IFG",) * 5, "%")
    features = Features({LAYER: X[::-1], Layer("decoder", 2): X[::-1, :20]}, ids[::-1])
    return X, responses, features


def test_equal_is_strict_on_components_of_the_training_rows():
    """Against scikit-learn's PCA of each fold's training rows, fitted by the same ridge."""
    X, responses, features = recording()
    equal = equal_dimension(datasets.protocols("tuckute2024")["strict"])
    found = brain_scores.score_layers(RowReduction(features, equal.components), responses, equal)
    splits = folds.make(equal.folds, responses.row_groups)
    for k, split in enumerate(splits):
        reduced_rows = PCA(50, svd_solver="full").fit(X[split.train].astype(float)).transform(X.astype(float))
        slow = brain_scores.fit_layer(reduced_rows, responses.values, responses.row_groups, [split], equal)
        np.testing.assert_allclose(found[LAYER].r[k], slow.r[0], atol=1e-6)
    assert found[LAYER].n_features == 50
    assert found[Layer("decoder", 2)].n_features == 20  # has no more
    assert equal.hash != datasets.protocols("tuckute2024")["strict"].hash


def test_test_rows_do_not_change_the_components():
    _, responses, features = recording()
    at = RowReduction(features, 50).on(responses.row_ids)
    train = np.arange(10, 120)
    changed = replace(features, values={layer: values.copy() for layer, values in features.values.items()})
    changed.values[LAYER][-1] += 100  # the first sentence, which is not trained on
    other = RowReduction(changed, 50).on(responses.row_ids)
    np.testing.assert_array_equal(at.of(train)[0][1:], other.of(train)[0][1:])


def test_all_sources_have_fewer_components_where_rows_are_few():
    assert principal_components.feasible(50, [np.arange(90), np.arange(45)]) == 44
    assert principal_components.feasible(50, [np.arange(90), np.arange(51)]) == 50
    with pytest.raises(ValueError, match="principal components of 1 training rows"):
        principal_components.feasible(50, [np.arange(1)])
    _, responses, features = recording(n=40)
    rule = FoldRule("grouped", n=4)
    training = [fold.train for fold in folds.make(rule, responses.row_groups)]
    equal = replace(equal_dimension(datasets.protocols("tuckute2024")["strict"]), folds=rule)
    few = RowReduction(features, principal_components.feasible(equal.components, training))
    fits = brain_scores.score_layers(few, responses, equal)
    assert [fit.n_features for fit in fits.values()] == [29, 20]  # 30 training rows; the other layer has 20 columns
    assert np.isfinite(fits[LAYER].r).all()


def test_fewer_training_rows_than_components_are_refused():
    _, responses, features = recording()
    with pytest.raises(ValueError, match="40 training rows for 50 components"):
        RowReduction(features, 50).on(responses.row_ids).of(np.arange(40))[0]


def test_a_row_without_features_is_named():
    _, _, features = recording()
    with pytest.raises(ValueError, match="s999"):
        RowReduction(features, 50).on(("s0", "s999"))


@pytest.mark.parametrize("name", [name for name, entry in datasets.DATASETS.items() if entry.kind == "brain"])
def test_every_recording_of_a_brain_has_an_equal_protocol(name):
    known = datasets.protocols(name)
    assert known["equal"].components == 50
    same = replace(known["equal"], name="strict", components=known["strict"].components)
    assert same == known["strict"]
