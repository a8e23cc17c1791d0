"""Score units without Ray: the tables that a unit stores, and predictions and weights on request."""

from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from harness.datasets.synthetic import STRICT
from harness.features import controls, hemodynamics
from harness.kernels.metrics import pearson_r
from harness.protocol import FoldRule, Sampling
from harness.records import Ceiling, Dataset, Features, Responses, Stimuli
from harness.storage.store import Store
from harness.units import scoring_demands
from harness.units.feature_units import FeatureSource
from harness.units.score_units import ScoreUnit

N, V = 60, 6
PROTOCOL = replace(STRICT, folds=FoldRule("grouped", n=4))
LENGTH = FeatureSource("length", "control", "", 0)


def _dataset():
    """Responses of three subjects that follow the length of a sentence, and two neuroids of noise."""
    rng = np.random.default_rng(0)
    ids, groups = tuple(f"s{i}" for i in range(N)), tuple(f"g{i // 3:02d}" for i in range(N))
    texts = tuple("a" * int(n) for n in rng.integers(1, 30, size=N))
    values = rng.normal(size=(N, V)) + np.array([len(text) for text in texts])[:, None] * np.array([1, 1, 1, 1, 0, 0])
    names = tuple(f"v{k}" for k in range(V))
    responses = Responses(values.astype(np.float32), ids, groups, groups, names, tuple("aabbcc"), ("r",) * V, "z")
    return Dataset("lengths", "0", Stimuli(ids, texts, groups), responses)


def _stored(unit, tmp_path):
    dataset, store = _dataset(), Store(str(tmp_path))
    unit.run(dataset, Ceiling(("",), np.full((1, V), np.nan), ("",) * V), store)
    with store.open("scores", unit.key) as folder:
        frames = {path.stem: pq.read_table(path).to_pandas() for path in folder.glob("*.parquet")}
        arrays = {path.stem: dict(np.load(path)) for path in folder.glob("*.npz")}
    return frames, arrays


def test_a_unit_stores_scores_by_fold_and_tests_of_its_neuroids(tmp_path):
    frames, arrays = _stored(ScoreUnit(LENGTH, "lengths", "0", PROTOCOL, 0), tmp_path)
    assert arrays == {}
    neuroids, splits, by_fold = (frames[name] for name in ("neuroid_scores", "split_scores", "fold_scores"))
    assert neuroids["chosen"].all()
    assert (neuroids["q"][:4] < 0.01).all()
    assert (neuroids["p"][4:] > 0.01).all()
    assert len(splits) == 4 * V
    assert splits.groupby("neuroid_id")["r"].mean().to_numpy() == pytest.approx(neuroids["r"].to_numpy())
    overall = frames["model_scores"].set_index("target").loc["all", "r"]
    assert by_fold.groupby("fold")["score"].mean().mean() == pytest.approx(overall)


def test_predictions_and_weights_are_kept_on_request(tmp_path):
    unit = ScoreUnit(LENGTH, "lengths", "0", PROTOCOL, 0, keep=("predictions", "weights"))
    assert unit.key != ScoreUnit(LENGTH, "lengths", "0", PROTOCOL, 0).key
    frames, arrays = _stored(unit, tmp_path)
    kept, weights = arrays["predictions"], arrays["weights"]
    assert sorted(kept["row_id"].tolist()) == sorted(f"s{i}" for i in range(N))
    own = kept["fold"] == 2
    r = pearson_r(kept["predicted"][own], kept["observed"][own])
    stored = frames["split_scores"].query("fold == 2").set_index("neuroid_id")["r"]
    assert r == pytest.approx(stored[kept["neuroid_id"]].to_numpy(), abs=1e-5)
    assert weights["weights"].shape == (2, V)  # characters and words
    assert weights["weights"][0, :4] == pytest.approx(1.0, abs=0.1)
    assert str(weights["layer"]) == "length.0"


def test_oasm_is_not_fitted_to_more_rows_than_its_matrices_have_memory_for(tmp_path, monkeypatch):
    shuffled = replace(PROTOCOL, folds=FoldRule("kfold", n=4))
    oasm = ScoreUnit(FeatureSource("oasm", "control", "", 0), "lengths", "0", shuffled, 0)
    beside = (oasm.source, FeatureSource("position", "control", "", 0))
    length = ScoreUnit(LENGTH, "lengths", "0", shuffled, 0, beside=beside)

    def scores_of(folder):
        store, experiments = Store(str(tmp_path / folder)), {"lengths": _dataset()}
        cost = scoring_demands.of_units([oasm], experiments, store, 1, 0.0)[oasm.key].alone
        of_oasm, of_length = (_stored(unit, tmp_path / folder)[0]["model_scores"] for unit in (oasm, length))
        over = of_length.query("target == 'all'")["unique_over"].iloc[0]
        return of_oasm["r"].notna().any(), "oasm" in over, cost

    fitted = scores_of("fitted")
    assert fitted[:2] == (True, True)
    monkeypatch.setattr(controls, "MOST_OASM_ROWS", N - 1)
    left_out = scores_of("left out")
    assert left_out[:2] == (False, False)
    assert left_out[2] < fitted[2] / 10


def test_weights_of_components_are_refused_before_anything_is_fitted(tmp_path):
    protocol = replace(PROTOCOL, components=1)
    with pytest.raises(ValueError, match="makes its features anew in each fold"):
        _stored(ScoreUnit(LENGTH, "lengths", "0", protocol, 0, keep=("weights",)), tmp_path)


@pytest.mark.parametrize("pool", ["mean", "hrf", "lanczos"])
def test_a_control_of_words_takes_a_filter_in_place_of_its_own_pool(pool):
    n_words, times = 40, np.arange(12) * 2.0
    ends = np.sort(np.random.default_rng(0).uniform(0.5, 22, n_words))
    ids, rows = tuple(f"w{i}" for i in range(n_words)), tuple(f"t{i}" for i in range(len(times)))
    stimuli = Stimuli(ids, ("bee",) * n_words, ("p",) * n_words, onsets_s=ends - 0.2, ends_s=ends)
    values, blocks = np.zeros((len(times), 1), np.float32), ("p",) * len(times)
    responses = Responses(values, rows, blocks, blocks, ("v",), ("s",), ("r",), "z", times)
    sampling = Sampling(pool=pool)
    unit = ScoreUnit(FeatureSource("word-rate", "control", "", 0), "x", "0", replace(PROTOCOL, sampling=sampling), 0)
    (rate,) = unit._control_features(unit.source, Dataset("x", "0", stimuli, responses)).values.values()
    ones = Features({"": np.ones((n_words, 1))}, ids)
    filtered = hemodynamics.at_scans(
        ones, stimuli, responses, replace(sampling, pool="sum" if pool == "mean" else pool)
    )
    assert np.asarray(rate) == pytest.approx(np.asarray(filtered.values[""]))
    counted = [((ends > time - 2) & (ends <= time)).sum() for time in times]
    assert np.allclose(np.asarray(rate)[:, 0], counted) == (pool == "mean")
