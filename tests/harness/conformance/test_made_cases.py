"""Cases made here with NumPy and scikit-learn: whole benchmarks, row orders, labels of stratified splits, BOS.

The values are computed by code of their own, in the manner of Brain-Score language, and not by our kernels.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pytest
import torch
from scipy.optimize import curve_fit
from sklearn.linear_model import LinearRegression, RidgeCV
from sklearn.model_selection import GroupKFold, ShuffleSplit, StratifiedKFold, StratifiedShuffleSplit
from transformers import AutoModelForCausalLM, AutoTokenizer

from harness.conformance import compare
from harness.models import tiny

LAYERS = ("transformer.h.0", "transformer.h.1")
EXPERIMENTS = ("243sentences", "384sentences")
ARGUMENTS = {
    "ridge": {"split_coord": "story", "kfold": "group", "random_state": 1234},
    "linear": {"splits": 10, "train_size": 0.9, "kfold": False, "random_state": 1},
}


def correlate(predicted, observed):
    """r of each column, with Brain-Score's 1e-8 in the norms."""
    p, o = predicted - predicted.mean(axis=0), observed - observed.mean(axis=0)
    return (p / (np.linalg.norm(p, axis=0) + 1e-8) * (o / (np.linalg.norm(o, axis=0) + 1e-8))).sum(axis=0)


def fitted(metric, X, Y, train, test):
    """Predictions, and alpha or rank, of one split."""
    if metric == "linear":
        model = LinearRegression().fit(X[train], Y[train])
        return model.predict(X[test]), int(np.linalg.matrix_rank(X[train] - X[train].mean(axis=0)))
    model = RidgeCV(alphas=np.logspace(-3, 3, 7)).fit(X[train], Y[train])
    return model.predict(X[test]), float(model.alpha_)


def splits_of(metric, groups):
    if metric == "linear":
        return list(ShuffleSplit(10, train_size=0.9, random_state=1).split(groups))
    return list(GroupKFold(10, shuffle=True, random_state=1234).split(groups, groups=groups))


@dataclass
class Made:
    """A made-up recording with two experiments and two layers, in rows that mix the experiments."""

    X: dict
    Y: np.ndarray
    experiment: np.ndarray
    story: np.ndarray
    ids: np.ndarray
    neuroids: np.ndarray


def made_recording(seed=0):
    random = np.random.default_rng(seed)
    n, n_neuroids = 150, 8
    experiment = random.permutation(np.repeat(EXPERIMENTS, [66, 84]))
    story = np.array([f"{name[:3]}.story{random.integers(12)}" for name in experiment])
    latent = random.standard_normal((n, 4))
    X = {name: latent @ random.standard_normal((4, p)) + noise * random.standard_normal((n, p))
         for name, p, noise in zip(LAYERS, (9, 80), (0.5, 2.0), strict=True)}  # fmt: skip
    Y = latent @ random.standard_normal((4, n_neuroids)) + random.standard_normal((n, n_neuroids))
    Y[:, 2] *= 0.01
    Y[np.ix_(experiment == EXPERIMENTS[0], [1, 5])] = np.nan
    Y[np.flatnonzero(experiment == EXPERIMENTS[1])[3], 6] = np.nan
    ids = np.array([f"s{k:03}" for k in random.permutation(n)])
    return Made(X, Y, experiment, story, ids, random.permutation(n_neuroids) + 10)


def score(made, experiment, metric, ceiling):
    """What Brain-Score records for one experiment and metric: by layer r, raw and normalised scores, and their mean."""
    rows = np.flatnonzero(made.experiment == experiment)
    Y = made.Y[rows]
    complete = np.isfinite(Y).all(axis=0)
    Y = Y[:, complete]
    splits = splits_of(metric, made.story[rows])
    by_layer = {}
    for layer, features in made.X.items():
        X = features[rows]
        results = [fitted(metric, X, Y, *split) for split in splits]
        r = np.array([correlate(p, Y[test]) for (p, _), (_, test) in zip(results, splits, strict=True)])
        raw = float(np.median(r, axis=1).mean())
        by_layer[layer] = {
            "r": r, "raw": raw, "normalised": min(max(raw / ceiling, 0), 1), "per_split": np.median(r, axis=1),
            "predicted": [p for p, _ in results], "chosen": np.array([c for _, c in results], dtype=float),
        }  # fmt: skip
    means = {name: float(np.mean([v[name] for v in by_layer.values()])) for name in ("raw", "normalised")}
    return by_layer, means, splits, rows, np.flatnonzero(complete)


CEILING = {EXPERIMENTS[0]: 0.75, EXPERIMENTS[1]: 0.95}


def record(made, name="pereira_made", layout="long", **changed):
    """Arrays of a whole benchmark in one of two layouts of names; keyword arguments change or remove arrays."""
    arrays = {
        "Y": made.Y, "experiment": made.experiment, "story": made.story, "stimulus_id": made.ids,
        "neuroid_id": made.neuroids, "subject": np.array([f"s{k % 3}" for k in range(made.Y.shape[1])]),
    }  # fmt: skip
    order = np.argsort(made.ids)  # the features come in another order of the rows, with their own ids
    if layout == "long":
        arrays["X"] = np.hstack(list(made.X.values()))[order]
        arrays["layer"] = np.repeat(list(made.X), [X.shape[1] for X in made.X.values()])
        arrays["X_stimulus_id"] = made.ids[order]
    else:
        arrays |= {f"X_{layer}": X for layer, X in made.X.items()}
    overall = {metric: [] for metric in ARGUMENTS}
    for experiment in EXPERIMENTS:
        for metric in ARGUMENTS:
            by_layer, means, splits, rows, complete = score(made, experiment, metric, CEILING[experiment])
            overall[metric].append(means["normalised"])
            place = f"{experiment}_{metric}__" if layout == "long" else f"_{metric}_{experiment[:3]}"
            named = lambda text, place=place: place + text if place.endswith("__") else text + place  # noqa: E731
            arrays |= {named("score"): np.array(means["normalised"]), named("raw"): np.array(means["raw"]),
                       named("ceiling"): np.array(CEILING[experiment])}  # fmt: skip
            for layer, values in by_layer.items():
                of_layer = lambda text, layer=layer, named=named: named(f"{layer}__{text}")  # noqa: E731
                sorted_ = np.argsort(made.neuroids[complete])
                arrays |= {
                    of_layer("r"): values["r"][:, sorted_], of_layer("raw"): np.array(values["raw"]),
                    of_layer("per_split_score"): values["per_split"],
                    of_layer("normalised"): np.array(values["normalised"]),
                    of_layer("alpha" if metric == "ridge" else "rank"): values["chosen"],
                }  # fmt: skip
                arrays[of_layer("pred_0")] = values["predicted"][0]
            if layout == "long":
                arrays[named("r_neuroid_order")] = np.sort(made.neuroids[complete])
            for k, (train, test) in enumerate(splits):
                whole = rows if layout == "long" else np.arange(len(rows))
                arrays |= {named(f"train_{k}"): whole[train], named(f"test_{k}"): whole[test]}
    arrays |= {f"{metric}_score": np.array(np.mean(values)) for metric, values in overall.items()}
    arrays["meta"] = np.array(json.dumps({
        "case": name, "benchmark": "Pereira2018", "versions": {"sklearn": "1.9.1"}, "crossvalidation_kwargs": {
            f"{e}-{m}": ARGUMENTS[m] for e in EXPERIMENTS for m in ARGUMENTS},
    }))  # fmt: skip
    for key, change in changed.items():
        arrays[key] = change(arrays[key].copy()) if callable(change) else change
    return {key: array for key, array in arrays.items() if array is not None}


def results_of(tmp_path, arrays, name="pereira_made"):
    np.savez(tmp_path / f"{name}.npz", **arrays)
    return [result for result in compare.run(str(tmp_path)) if result.precision != "mixed"]


@pytest.mark.parametrize("layout", ["long", "short"])
@pytest.mark.parametrize("seed", range(3))
def test_a_whole_benchmark_agrees(layout, seed, tmp_path):
    results = results_of(tmp_path, record(made_recording(seed), layout=layout))
    assert [(result.case.partition(": ")[2], result.verdict) for result in results] == [
        *((f"{experiment} {metric}", "agrees") for experiment in EXPERIMENTS for metric in ("ridge", "linear")),
        ("means", "agrees"),
    ]
    for result in results[:4]:
        assert result.max_dr < 1e-10
        assert result.max_dscore < 1e-11
        assert result.max_dsplit_score < 1e-10
        assert result.max_dpredicted < 1e-9
        assert result.splits_agree
        assert (result.alphas_agree, result.rank_agrees) == ((True, None) if "ridge" in result.case else (None, True))


@pytest.mark.parametrize(("name", "message"), [
    ("384sentences_ridge__transformer.h.1__r", "r differs by 1.0e-06"),
    ("243sentences_linear__transformer.h.0__per_split_score", "score of a split differs by 1.0e-06"),
    ("384sentences_linear__transformer.h.0__normalised", "score differs by 1.0e-06"),
    ("384sentences_ridge__score", "score differs by 1.0e-06"),
    ("384sentences_linear__raw", "score differs by 1.0e-06"),
    ("384sentences_linear__transformer.h.0__pred_0", "prediction differs"),
    ("linear_score", "score differs by 1.0e-06"),
    ("384sentences_ridge__transformer.h.0__alpha", "different alphas"),
    ("384sentences_linear__transformer.h.1__rank", "different ranks"),
])  # fmt: skip
def test_one_wrong_number_of_a_benchmark_is_reported(name, message, tmp_path):
    # which result (in the order of the experiments and metrics) has the fault
    order = {"243sentences_ridge": 0, "243sentences_linear": 1, "384sentences_ridge": 2, "384sentences_linear": 3}
    which = order.get(name.partition("__")[0], 4)

    def change(array):
        array.flat[0] += 1e-6 if "alpha" not in name and "rank" not in name else 1
        return array

    results = results_of(tmp_path, record(made_recording(), **{name: change}))
    assert [result.verdict for result in results] == ["agrees"] * which + ["differs"] + ["agrees"] * (4 - which)
    assert message in results[which].reason


def test_arrays_with_unknown_names_are_listed_and_missing_results_are_said(tmp_path):
    arrays = record(made_recording(), mystery=np.zeros(3))
    assert "unknown names: mystery" in results_of(tmp_path, arrays)[-1].reason
    bare = {name: arrays[name] for name in ("X", "Y", "layer", "X_stimulus_id", "stimulus_id", "story", "experiment")}
    meta = json.dumps({"case": "bare", "metric": "ridge_pearsonr"})
    results = results_of(tmp_path, bare | {"meta": np.array(meta)})
    assert {result.verdict for result in results} == {"not run"}
    assert "no result of it is recorded under a known name" in results[0].reason


def test_a_benchmark_without_recorded_splits_is_scored_on_the_splits_of_brain_score(tmp_path):
    arrays = {name: array for name, array in record(made_recording()).items()
              if not any(word in name for word in ("train", "test", "pred"))}  # fmt: skip
    arrays["meta"] = np.array(json.dumps({"case": "c", "benchmarks": ["243-ridge", "384-linear"],
                                          "versions": {"sklearn": "1.9.1"}}))  # fmt: skip
    results = results_of(tmp_path, arrays)
    assert [result.verdict for result in results] == ["agrees"] * 5
    assert "splits regenerated" in results[0].reason


@pytest.mark.parametrize("seed", range(30))
def test_damaged_benchmarks_never_raise(seed, tmp_path):
    """Arrays that are missing, cut, transposed, of another type or not finite give a verdict with a reason."""
    random = np.random.default_rng(seed)
    arrays = record(made_recording())
    for name in random.permutation([name for name in arrays if name != "meta"])[:3]:
        array = arrays[name]
        arrays[name] = [
            array[:1] if array.ndim else array, array.T, array.astype(str), np.array(0.0),
            np.full(array.shape, np.nan), array.reshape(-1),
        ][random.integers(6)]  # fmt: skip
    for name in random.permutation([name for name in arrays if name != "meta"])[:2]:
        del arrays[name]
    results = results_of(tmp_path, arrays)
    assert results
    for result in results:
        assert result.verdict in ("agrees", "differs", "damaged", "not run")
        assert result.reason


@pytest.mark.parametrize(("score_of", "note"), [
    (lambda raw: raw / 0.9, ""), (lambda raw: raw, "is the score before division by the ceiling"),
    (lambda raw: min(raw / 0.4, 1.0), ""), (lambda raw: raw / 0.4, "is not clipped"),
])  # fmt: skip
def test_a_benchmark_of_one_experiment_and_layer(score_of, note, tmp_path):
    """Blank2014: eight folds of whole stories, without recorded splits; the score is told from the ceiling."""
    random = np.random.default_rng(0)
    story = np.repeat([f"story{k}" for k in range(8)], [10, 12, 14, 13, 12, 13, 12, 14])
    X = random.standard_normal((100, 6))
    Y = X @ random.standard_normal((6, 5)) + 5 * random.standard_normal((100, 5))
    splits = list(GroupKFold(8, shuffle=True, random_state=1234).split(X, groups=story))
    r = np.array([correlate(fitted("ridge", X, Y, *split)[0], Y[split[1]]) for split in splits])
    raw = np.median(r, axis=1).mean()
    arrays = {
        "X": X, "Y": Y, "story": story, "r": r, "score": score_of(raw),
        "ceiling": 0.9 if score_of(raw) in (raw, raw / 0.9) else 0.4,
        "meta": np.array(json.dumps({"case": "blank_made", "benchmark": "Blank2014-ridge"})),
    }  # fmt: skip
    (result,) = results_of(tmp_path, arrays, "blank_made")
    assert result.verdict == "agrees", result.reason
    assert note in result.reason
    (result,) = results_of(tmp_path, arrays | {"r": r[:3]}, "blank_made")
    assert (result.verdict, "r is (3, 5), wanted (8, 5)" in result.reason) == ("differs", True)


def saturation(x, v0, tau0):
    return v0 * (1 - np.exp(-x / tau0))


def ceilings_of(Y, subjects, splits):
    """Ceiling of each neuroid: r of least squares from pools of other subjects, extrapolated by SciPy's curve_fit."""
    names, ceilings = sorted(set(subjects)), []
    scores = {}
    for size in range(2, len(names) + 1):
        for subset in combinations(names, size):
            for name in subset:
                own, pool = subjects == name, np.isin(subjects, [other for other in subset if other != name])
                r = [
                    correlate(fitted("linear", Y[:, pool], Y[:, own], *split)[0], Y[split[1]][:, own])
                    for split in splits
                ]
                for neuroid, values in zip(np.flatnonzero(own), np.transpose(r), strict=True):
                    scores.setdefault((neuroid, size), []).append(values)
    for neuroid in range(len(subjects)):
        random, v0 = np.random.RandomState(0), []
        for _ in range(100):
            means = []
            for size in range(2, len(names) + 1):
                choices = np.array(scores[neuroid, size]).ravel()
                means.append(random.choice(choices, size=len(choices), replace=True).mean())
            x = np.arange(2, len(names) + 1)
            v0.append(curve_fit(saturation, x, means, bounds=([0, -np.inf], [1, np.inf]))[0][0])
        ceilings.append(np.median(v0))
    return np.array(ceilings)


@pytest.mark.parametrize(("error", "verdict"), [(0.0, "agrees"), (1e-4, "differs")])
def test_the_ceilings_of_a_benchmark_are_recomputed_from_its_subjects(error, verdict, tmp_path):
    random = np.random.default_rng(1)
    subjects, signal = np.repeat(["s1", "s2", "s3"], 2), random.standard_normal((60, 2))
    Y = signal @ random.standard_normal((2, 6)) + 0.7 * random.standard_normal((60, 6))
    X = signal + 0.5 * random.standard_normal((60, 2))
    splits = list(ShuffleSplit(10, train_size=0.9, random_state=1).split(Y))
    neuroid_ceilings = ceilings_of(Y, subjects, splits)
    ceiling = np.median(neuroid_ceilings)
    r = np.array([correlate(fitted("linear", X, Y, *split)[0], Y[split[1]]) for split in splits])
    arrays = {
        "X": X, "Y": Y, "subject": subjects, "neuroid_ceiling": neuroid_ceilings + error, "ceiling": ceiling + error,
        "r": r, "raw": np.median(r, axis=1).mean(), "meta": np.array(json.dumps({
            "metric": "linear_pearsonr", "crossvalidation_kwargs": ARGUMENTS["linear"]})),
    }  # fmt: skip
    scores, ceilings = results_of(tmp_path, arrays, "made")
    assert (scores.verdict, ceilings.verdict) == ("agrees", verdict), (scores.reason, ceilings.reason)


# --- regressions ------------------------------------------------------------------------------------------------------


def regression(splits, metric="linear", n=60, seed=3, **meta):
    """A regression case in the known form, with predictions of every split."""
    random = np.random.default_rng(seed)
    X, Y = random.standard_normal((n, 5)), random.standard_normal((n, 4))
    arrays = {"X": X, "Y": Y, "stimulus_id": np.array([f"t{k}" for k in random.permutation(n)])}
    r, chosen = [], []
    for k, (train, test) in enumerate(splits):
        predicted, rank = fitted(metric, X, Y, train, test)
        r.append(correlate(predicted, Y[test]))
        chosen.append(rank)
        arrays |= {f"train_{k}": train, f"test_{k}": test, f"pred_{k}": predicted}
    per_split = np.median(r, axis=1)
    meta = {"metric": "linear_pearsonr", "versions": {"sklearn": "1.9.1"}, **meta}
    results = {"r": np.array(r), "per_split_score": per_split, "score": per_split.mean(), "rank": np.array(chosen)}
    return arrays | results | {"meta": np.array(json.dumps(meta))}


UNSORTED = list(ShuffleSplit(4, train_size=0.9, random_state=1).split(np.zeros(60)))
SHUFFLED = {"crossvalidation_kwargs": {"splits": 4, "train_size": 0.9, "random_state": 1}}


def test_test_rows_need_not_be_sorted(tmp_path):
    assert any((np.diff(test) < 0).any() for _, test in UNSORTED)
    (result,) = results_of(tmp_path, regression(UNSORTED, **SHUFFLED), "c")
    assert (result.verdict, result.splits_agree) == ("agrees", True), result.reason
    assert result.max_dpredicted < 1e-12


@pytest.mark.parametrize("identity", ["pred_rows_{}", "pred_{}_stimulus_id", "pred_order_{}", "pred_stimulus_id"])
def test_predictions_are_joined_by_their_recorded_rows(identity, tmp_path):
    arrays, random = regression(UNSORTED, **SHUFFLED), np.random.default_rng(0)
    for_all = np.random.default_rng(1).permutation(60)
    for k, (_, test) in enumerate(UNSORTED):
        place = random.permutation(len(test))
        if identity == "pred_stimulus_id":
            place = np.array([np.flatnonzero(test == row)[0] for row in for_all if row in test])
        arrays[f"pred_{k}"] = arrays[f"pred_{k}"][place]
        arrays[identity.format(k)] = {
            "pred_rows_{}": test[place], "pred_{}_stimulus_id": arrays["stimulus_id"][test[place]],
            "pred_order_{}": place, "pred_stimulus_id": arrays["stimulus_id"][for_all],
        }[identity]  # fmt: skip
    (result,) = results_of(tmp_path, arrays, "c")
    assert result.verdict == "agrees", result.reason
    assert result.max_dpredicted < 1e-12
    assert "predictions joined by their recorded rows" in result.reason
    arrays["pred_1"][0, 0] += 1e-4
    (result,) = results_of(tmp_path, arrays, "c")
    assert (result.verdict, "prediction differs" in result.reason) == ("differs", True)


def test_predictions_in_the_order_of_the_file_are_recognised(tmp_path):
    arrays = regression(UNSORTED, **SHUFFLED)
    arrays |= {f"pred_{k}": arrays[f"pred_{k}"][np.argsort(test)] for k, (_, test) in enumerate(UNSORTED)}
    (result,) = results_of(tmp_path, arrays, "c")
    assert result.verdict == "agrees", result.reason
    assert "predictions are in the order of the file" in result.reason


def test_identities_of_other_rows_are_damaged(tmp_path):
    arrays = regression(UNSORTED, **SHUFFLED)
    arrays["pred_rows_2"] = np.roll(np.setdiff1d(np.arange(60), UNSORTED[2][1]), 1)[: len(UNSORTED[2][1])]
    (result,) = results_of(tmp_path, arrays, "c")
    assert (result.verdict, "pred_rows_2 does not name" in result.reason) == ("damaged", True)


@pytest.mark.parametrize("form", ["mask", "ids"])
def test_splits_may_be_recorded_as_masks_or_stimulus_ids(form, tmp_path):
    splits = [(np.sort(train), np.sort(test)) for train, test in UNSORTED]
    arrays = regression(splits, **SHUFFLED)
    for k, sides in enumerate(splits):
        for name, rows in zip((f"train_{k}", f"test_{k}"), sides, strict=True):
            arrays[name] = np.isin(np.arange(60), rows) if form == "mask" else arrays["stimulus_id"][rows]
    (result,) = results_of(tmp_path, arrays, "c")
    assert (result.verdict, result.splits_agree) == ("agrees", True), result.reason


LABELS = np.array(["b", "a", "c", "a"] * 15)


@pytest.mark.parametrize(("name", "agree"), [
    ("category", True), ("stimulus_category", True), ("stratification", True), ("group", True), ("unknown", None),
])  # fmt: skip
@pytest.mark.parametrize("splitter", [
    StratifiedKFold(5, shuffle=True, random_state=1), StratifiedShuffleSplit(4, train_size=0.8, random_state=1),
])  # fmt: skip
def test_stratified_splits_are_regenerated_from_labels(name, agree, splitter, tmp_path):
    splits = list(splitter.split(np.zeros(60), LABELS))
    arguments = {"splits": len(splits), "stratification_coord": "category"}
    arguments |= {"kfold": True} if isinstance(splitter, StratifiedKFold) else {"train_size": 0.8}
    (result,) = results_of(tmp_path, regression(splits, crossvalidation_kwargs=arguments) | {name: LABELS}, "c")
    assert (result.verdict, result.splits_agree) == ("agrees", agree), result.reason
    other = np.roll(LABELS, 1)
    other[:20] = "d"
    (result,) = results_of(tmp_path, regression(splits, crossvalidation_kwargs=arguments) | {name: other}, "c")
    assert result.splits_agree is (False if "category" in name else None)


# --- models -----------------------------------------------------------------------------------------------------------

TEXTS = {"words": ["the old man", " walks", " to the sea", " ."], "one": ["sea"]}


def recorded_model(folder, *, has_bos, records_tokens):
    """A tiny Llama and what its own forward pass gives for growing contexts, with or without BOS before each."""
    tiny.build("llama", folder / "tiny_llama", ["the old man walks to the sea ."] * 30, seed=0)
    tokenizer = AutoTokenizer.from_pretrained(folder / "tiny_llama")
    model = AutoModelForCausalLM.from_pretrained(folder / "tiny_llama").eval()
    bos, captured = ([tokenizer.bos_token_id] if has_bos else []), {}
    for k in (0, 2):
        model.model.layers[k].register_forward_hook(
            lambda module, given, out, k=k: captured.update({k: out[0] if isinstance(out, tuple) else out})
        )
    arrays, contexts_of, tokens_of = {}, {}, {}
    for text, parts in TEXTS.items():
        contexts_of[text] = ["".join(parts[: k + 1]) for k in range(len(parts))]
        states, bits, before, tokens_of[f"{text}__neural"] = [], [], 0, []
        for context in contexts_of[text]:
            ids = bos + tokenizer(context, add_special_tokens=False)["input_ids"]
            with torch.no_grad():
                logs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
            states.append(torch.cat([captured[k].reshape(len(ids), -1)[-1] for k in (0, 2)]).numpy())
            scored = range(max(before, 1), len(ids))
            total = -sum(float(logs[k - 1, ids[k]]) for k in scored) / np.log(2)
            bits.append(total if len(scored) else np.nan)
            tokens_of[f"{text}__neural"].append(ids[before:])
            before = len(ids)
        arrays |= {f"{text}__neural": np.array(states), f"{text}__surprisal_bits": np.array(bits)}
    meta = {"case": "hf_llama", "layers": ["model.layers.0", "model.layers.2"], "contexts": contexts_of}
    meta |= {"current_tokens": tokens_of} if records_tokens else {}
    np.savez(folder / "hf_llama.npz", meta=np.array(json.dumps(meta)), **arrays)


@pytest.mark.parametrize(("has_bos", "records_tokens", "verdict"), [
    (True, True, "agrees"), (False, True, "agrees"), (False, False, "agrees"), (True, False, "differs"),
])  # fmt: skip
def test_bos_stands_before_a_text_as_the_recorded_tokens_say(has_bos, records_tokens, verdict, tmp_path):
    """Without recorded tokens the tokenizer decides, which here adds no BOS."""
    recorded_model(tmp_path, has_bos=has_bos, records_tokens=records_tokens)
    tiny.build("gpt2", tmp_path / "tiny_gpt2", ["the old man walks to the sea ."] * 30, seed=0)  # of another case
    (result,) = [result for result in compare.run(str(tmp_path)) if result.case == "hf_llama"]
    assert result.verdict == verdict, result.reason
    if verdict == "agrees":
        assert max(result.max_dr, result.max_dscore) < 1e-4
        assert ("with (0,) before each text" if has_bos else "without BOS") in result.reason
        assert "5 parts compared" in result.reason


def test_tokens_of_another_model_are_reported(tmp_path):
    recorded_model(tmp_path, has_bos=True, records_tokens=True)
    with np.load(tmp_path / "hf_llama.npz") as archive:
        arrays = dict(archive)
    meta = json.loads(str(arrays["meta"]))
    meta["current_tokens"]["words__neural"][0] = [0, 7, 7, 7]
    np.savez(tmp_path / "hf_llama.npz", **arrays | {"meta": np.array(json.dumps(meta))})
    (result,) = [result for result in compare.run(str(tmp_path)) if result.case == "hf_llama"]
    assert (result.verdict, "the recorded tokens of 'words' begin with" in result.reason) == ("damaged", True)


def test_contexts_are_joined_from_the_parts_if_they_are_not_recorded(shared, tmp_path):
    with np.load(shared / "oracle" / "hf_gpt2.npz") as archive:
        arrays = dict(archive)
    meta = json.loads(str(arrays["meta"]))
    del meta["contexts"]
    np.savez(tmp_path / "hf_gpt2.npz", **arrays | {"meta": np.array(json.dumps(meta))})
    shutil.copytree(shared / "oracle" / "tiny_gpt2", tmp_path / "tiny_gpt2")
    result = next(result for result in compare.run(str(tmp_path)) if result.case == "hf_gpt2")
    assert (result.verdict, "74 parts compared without BOS" in result.reason) == ("agrees", True), result.reason
