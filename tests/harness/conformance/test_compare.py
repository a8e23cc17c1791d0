"""Recorded Brain-Score vectors: correct ones agree, altered ones are reported with the fault."""

from __future__ import annotations

import json
import pickle
import shutil

import numpy as np
import pytest

from harness.cli.commands import main
from harness.conformance import compare, regression

SMALL = "lin_kfold5_n150"
RIDGE = "ridge_degenerate_targets"


@pytest.fixture(scope="module")
def results(shared):
    return compare.run(str(shared / "oracle"))


@pytest.fixture
def copy(shared, tmp_path):
    """Function that copies a case into an empty folder and returns the folder.

    Keyword arguments replace arrays: a value, a function of the array, or None to leave it out.
    """

    def write(case=SMALL, meta_changes=None, **changed):
        with np.load(shared / "oracle" / f"{case}.npz", allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        arrays["meta"] = np.array(json.dumps(json.loads(str(arrays["meta"])) | (meta_changes or {})))
        for name, change in changed.items():
            arrays[name] = change(arrays[name].copy()) if callable(change) else change
        np.savez(tmp_path / f"{case}.npz", **{name: array for name, array in arrays.items() if array is not None})
        return tmp_path

    return write


def put(index, value):
    """A change of one entry of an array."""

    def change(array):
        array[index] = value if not callable(value) else value(array[index])
        return array

    return change


def result_of(folder, precision="float64"):
    """Result of the only case of a folder."""
    (result,) = [result for result in compare.run(str(folder)) if result.precision in ("", precision)]
    return result


def test_all_recorded_regressions_agree(results):
    regressions = [result for result in results if result.kind in ("ridge", "linear") and result.precision == "float64"]
    assert len(regressions) == 14
    for result in regressions:
        assert result.verdict == "agrees", result.reason
        assert result.n_splits >= 4
        assert (result.alphas_agree, result.rank_agrees) == ((True, None) if result.kind == "ridge" else (None, True))
        if result.case.endswith("_f32"):
            assert "float32: Brain-Score solves in that precision" in result.reason
        else:
            assert max(result.max_dr, result.max_dsplit_score * 10, result.max_dscore * 10) < 1e-9
        stratified = "_strat" in result.case
        assert result.splits_agree is (None if stratified else True)
        assert ("splits: not checkable (no labels" in result.reason) == stratified
    assert sum(result.max_dloo_mse < 1e-9 for result in regressions) == 6
    assert all(result.max_dpredicted < 1e-8 for result in regressions if not result.case.endswith("_f32"))


@pytest.mark.parametrize("case", ["futrell_splithalf", "extrapolation_ceiling_lin_shuffle", "hf_gpt2"])
def test_cases_other_than_regression_agree(case, results):
    (result,) = [result for result in results if result.case == case]
    assert result.verdict == "agrees", result.reason
    assert result.max_dr < 1e-5


def test_ceiling_curves_agree_to_scipys_own_accuracy(results):
    (result,) = [result for result in results if result.case == "extrapolation_ceiling_lin_shuffle: curves"]
    assert (result.verdict, result.n_splits) == ("agrees", 100)
    assert result.max_dr < 1e-5
    assert result.max_dscore < 2e-6


@pytest.mark.parametrize(("changed", "message"), [
    ({"boot_params": put((3, 7, 0), lambda v0: v0 + 1e-4)}, "r differs by 1.0e-04"),
    ({"boot_params": put((3, 7, 1), lambda tau0: tau0 + 0.1)}, "r differs by"),
    ({"endpoint_x": put(2, lambda end: end + 1)}, "r differs by 1.0e+00"),
    ({"neuroid_ceiling": put(5, lambda ceiling: ceiling + 1e-5)}, "score differs by 1.0e-05"),
    ({"ceiling": lambda ceiling: ceiling + 1e-5}, "score differs by 1.0e-05"),
])  # fmt: skip
def test_one_wrong_number_of_the_curves_is_reported(changed, message, copy):
    scores, curves = compare.run(str(copy("extrapolation_ceiling_lin_shuffle", **changed)))
    assert scores.verdict == "agrees"
    assert curves.verdict == "differs"
    assert message in curves.reason


def test_similarities_of_whole_matrices_are_compared(shared, monkeypatch, tmp_path):
    shutil.copy(shared / "oracle" / "cka_rdm.npz", tmp_path)
    from harness.conformance import beyond_regression

    monkeypatch.setattr(beyond_regression, "SIMILARITIES", {"cka": linear_cka})
    assert result_of(tmp_path).verdict == "agrees"
    monkeypatch.setattr(beyond_regression, "SIMILARITIES", {"cka": lambda X, Y: linear_cka(X, Y) + 1e-6})
    assert result_of(tmp_path).verdict == "differs"


def linear_cka(X, Y):
    X, Y = X - X.mean(axis=0), Y - Y.mean(axis=0)
    return (X.T @ Y).ravel() @ (X.T @ Y).ravel() / np.linalg.norm(X.T @ X) / np.linalg.norm(Y.T @ Y)


@pytest.mark.parametrize(("case", "changed", "meta", "message"), [
    (SMALL, {"r": put((3, 7), lambda r: r + 1e-6)}, {}, "r differs by 1.0e-06"),
    (RIDGE, {"r": put((0, 0), 1e-6)}, {}, "r differs by 1.0e-06"),
    (SMALL, {"score": lambda score: score + 1e-9}, {}, "score differs by 1.0e-09"),
    (SMALL, {"per_split_score": put(2, lambda score: score + 1e-8)}, {}, "score of a split differs"),
    (SMALL, {"pred_0": put((0, 0), lambda y: y + 1e-6)}, {}, "prediction differs by"),
    (SMALL, {"rank": put(1, 39)}, {}, "different ranks"),
    (SMALL, {}, {"crossvalidation_kwargs": {"splits": 5, "kfold": True, "random_state": 2}}, "different splits"),
    (SMALL, {}, {"crossvalidation_kwargs": {"splits": 4, "kfold": True}}, "different splits"),
    (RIDGE, {"alpha": put(4, 1e-3)}, {}, "different alphas"),
    (RIDGE, {"loo_mse": put((9, 0), lambda mse: mse * (1 + 1e-6))}, {}, "leave-one-out error differs by 1.0e-06"),
])  # fmt: skip
def test_one_wrong_number_is_reported_and_fails(case, changed, meta, message, copy, capsys):
    folder = copy(case, meta, **changed)
    result = result_of(folder)
    assert (result.case, result.verdict) == (case, "differs")
    assert message in result.reason
    assert main(["conform", str(folder)]) == 1
    assert f"{case}: differs: " in capsys.readouterr().out


@pytest.mark.parametrize(("changed", "message"), [
    ({"train_3": None}, "train_3 missing"),
    ({"rank": None}, "rank missing"),
    ({"meta": None}, "meta missing"),
    ({"X": put((0, 1), np.nan)}, "X contains NaN"),
    ({"r": put((0, 1), np.inf)}, "r contains NaN"),
    ({"Y": lambda Y: Y[:-1]}, r"Y is (149, 80), wanted (150, 80)"),
    ({"r": lambda r: r[:4]}, "wanted (4,)"),
    ({"test_1": put(0, 150)}, "test_1 contains rows"),
    ({"train_2": lambda rows: np.append(rows, rows[0])}, "train_2 contains a row twice"),
    ({"train_0": lambda rows: rows[:0]}, "train_0 must be a list"),
    ({"train_0": np.arange(150)}, "train_0 and test_0 share 30 rows"),
    ({"meta": np.array("{")}, "meta is not JSON"),
    ({"meta": np.array("[]")}, "meta is a JSON list"),
])  # fmt: skip
def test_a_malformed_case_is_damaged_and_the_array_is_named(changed, message, copy, capsys):
    folder = copy(**changed)
    result = result_of(folder)
    assert (result.case, result.verdict) == (SMALL, "damaged")
    assert message in result.reason
    assert main(["conform", str(folder)]) == 1
    assert "1 damaged" in capsys.readouterr().out


@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.99])
def test_a_truncated_file_is_damaged_and_the_others_are_compared(fraction, copy, shared):
    folder = copy()
    whole = (shared / "oracle" / f"{RIDGE}.npz").read_bytes()
    (folder / "cut.npz").write_bytes(whole[: int(fraction * len(whole))])
    verdicts = {result.case: result.verdict for result in compare.run(str(folder)) if result.precision != "mixed"}
    assert verdicts == {SMALL: "agrees", "cut": "damaged"}


def test_a_file_with_a_flipped_byte_is_damaged(copy):
    path = copy() / f"{SMALL}.npz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    assert result_of(path.parent).verdict == "damaged"


@pytest.mark.parametrize(("meta", "message"), [
    ({"metric": "rbf_pearsonr"}, "metric 'rbf_pearsonr' is unknown"),
    ({"crossvalidation_kwargs": {"kfold": "spiral"}}, "unknown cross-validation"),
    ({"crossvalidation_kwargs": {"leave_out": 3}}, "unknown cross-validation"),
    ({"crossvalidation_kwargs": {"random_state": None}}, "gives different splits each time"),
    ({"metric": None}, "names no metric"),
])  # fmt: skip
def test_an_unknown_case_is_listed_and_does_not_fail(meta, message, copy, capsys):
    folder = copy(meta_changes=meta)
    assert main(["conform", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert f"{SMALL}: not run: " in shown
    assert message in shown
    assert "1 comparisons: 0 agree, 0 differ, 0 damaged, 1 not run" in shown.splitlines()[-1]


def test_other_files_are_listed_and_pickles_are_not_loaded(copy):
    class Trap:
        def __reduce__(self):
            return pytest.fail, ("unpickled",)

    folder = copy()
    (folder / "notes.txt").write_text("notes")
    (folder / "folder").mkdir()
    np.savez(folder / "foreign.npz", weights=np.zeros(3))
    np.savez(folder / "objects.npz", meta=np.array("{}"), r=np.array([Trap()], dtype=object))
    (folder / "whole.npz").write_bytes(pickle.dumps(Trap()))
    results = {result.case: result for result in compare.run(str(folder)) if result.precision != "mixed"}
    assert results.pop(SMALL).verdict == "agrees"
    assert {result.verdict for result in results.values()} == {"not run"}
    reasons = {case: result.reason.split(",")[0] for case, result in results.items()}
    assert reasons == {
        "notes.txt": "not an .npz archive of vectors", "folder": "a folder", "whole": "a pickle",
        "foreign": "a file in another format: it has no `meta`", "objects": "r is pickled",
    }  # fmt: skip


def test_stratified_splits_are_checked_if_the_file_contains_labels(copy):
    labels = np.array([f"class {row % 3}" for row in range(150)])
    assert result_of(copy("lin_stratkfold5_n150", category=labels)).splits_agree is True
    assert result_of(copy("lin_stratkfold5_n150", category=np.sort(labels))).splits_agree is False


@pytest.mark.parametrize(("recorded", "agree"), [(1.0, True), (1.1, False)])
def test_the_recorded_alpha_is_accepted_if_rounding_decides(recorded, agree, copy):
    """With features 1e5 times larger, 1 - h at the smallest alphas is a rounding error in both programs."""
    errors = np.ones((10, 7))
    errors[:, 1] = recorded  # of alpha 0.01, recorded as chosen; our errors are all within 1 % of each other
    folder = copy("ridge_group_n120_p900_v50", X=lambda X: 1e5 * X, alpha=np.full(10, 0.01), loo_mse=errors)
    result = result_of(folder)
    assert result.alphas_agree is agree
    assert ("rounding decides the alpha" in result.reason) == agree


def test_neuroids_are_matched_by_name(copy):
    backwards = np.arange(80)[::-1]
    assert result_of(copy(r=lambda r: r[:, backwards], r_neuroid_order=lambda ids: ids[backwards])).verdict == "agrees"


@pytest.mark.parametrize(("error", "verdict"), [(0.0, "agrees"), (1e-3, "differs")])
@pytest.mark.parametrize("case", [SMALL, RIDGE])
def test_mixed_precision_is_compared_at_the_recorded_alpha(case, error, verdict, copy, monkeypatch):
    exact, grids = regression.predict_held_out, []

    def in_float32(features, Y, split, penalty, *, precision):
        grids.append((precision, penalty.alphas))
        noise = error * np.random.default_rng(0).standard_normal((len(split.test), Y.shape[1]))
        for block in exact(features, Y, split, penalty):
            rounded = (block.predicted + noise[:, block.neuroids]).astype(np.float32)
            yield block if precision == "float64" else block._replace(predicted=rounded)

    monkeypatch.setattr(regression, "predict_held_out", in_float32)
    result = result_of(copy(case), "mixed")
    assert result.verdict == verdict
    assert result.tolerance.r == 1e-5
    sizes = {len(alphas) for precision, alphas in grids if precision == "mixed"}
    assert sizes == ({1} if case == RIDGE else {0})


def test_json_output_is_one_list_of_cases(copy, capsys):
    folder = copy(r=put((3, 7), lambda r: r + 1e-6))
    (folder / "notes.txt").write_text("notes")
    assert main(["conform", str(folder), "--json"]) == 1
    cases = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    first, last = cases[0], cases[-1]
    for name in (
        "case", "kind", "verdict", "n_splits", "max_dr", "max_dscore", "splits_agree", "alphas_agree", "rank_agrees",
        "tolerance_r", "tolerance_score", "precision", "reason",
    ):  # fmt: skip
        assert all(name in case for case in cases)
    assert (first["case"], first["kind"], first["verdict"], first["n_splits"]) == (SMALL, "linear", "differs", 5)
    assert abs(first["max_dr"] - 1e-6) < 1e-12
    assert (first["splits_agree"], first["alphas_agree"], first["rank_agrees"]) == (True, None, True)
    assert (last["case"], last["verdict"], last["max_dr"]) == ("notes.txt", "not run", None)


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_a_missing_or_empty_folder_is_a_usage_error(name, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert main(["conform", str(tmp_path / name)]) == 2
    assert name in capsys.readouterr().err
