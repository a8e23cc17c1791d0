"""`harness.evaluate`, `load_scores` and `plan`."""

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

import harness
from harness import evaluate, load_scores, plan
from harness.datasets import synthetic

QUIET = {"progress": False, "variants": (), "controls": ("length",)}
KEYS = ["dataset", "protocol", "model", "target"]


def overall(results):
    frame = results.model_scores
    return frame[frame["target"] == "all"].set_index("model")["r"]


def test_the_functions_are_listed_and_others_are_not_there():
    assert {"evaluate", "surprisal", "load_scores", "plan"} <= set(dir(harness))
    with pytest.raises(AttributeError, match="evaluat"):
        _ = harness.evaluat


@pytest.mark.ray
def test_scores_are_those_of_the_command(finished_quickstart):
    command = load_scores(finished_quickstart.out)
    model = os.path.join(finished_quickstart.out, "quickstart", "tiny-llama")  # noqa: PTH118
    here = evaluate(model, "synthetic", "strict", progress=False, variants=())
    keys = ["dataset", "protocol", "model", "target"]
    compared = {
        "model_scores": (keys, ["r", "r_low", "r_high", "ceiling", "unique_r2"]),
        "layer_scores": ([*keys, "stack", "layer"], ["r", "ceiling"]),
        "paired_tests": ([*keys, "relation", "other"], ["difference", "low", "high", "p"]),
    }
    for table, (labels, numbers) in compared.items():
        both = here[table].merge(command[table], on=[*labels, "metric"], suffixes=("", "_of_command"))
        assert len(both) == len(here[table]) > 0, table
        for name in numbers:
            np.testing.assert_allclose(both[name], both[f"{name}_of_command"], rtol=1e-6, atol=1e-9, err_msg=name)


def test_a_model_in_memory_scores_as_from_its_folder_and_stays_as_it_was(
    folder, in_memory, recording, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    in_memory[0].train()
    in_memory[0].get_input_embeddings().eval()
    options = QUIET | {"variants": ("untrained",)}
    one = evaluate(str(folder), recording, "strict", **options)
    other = evaluate(in_memory, recording, "strict", **options)
    assert list(one.model_scores["model"].unique()) == list(other.model_scores["model"].unique())
    columns = ["r", "r_low", "r_high", "unique_r2", "layer"]
    pd.testing.assert_frame_equal(one.model_scores[columns], other.model_scores[columns])
    pd.testing.assert_frame_equal(one.layer_scores[["layer", "r"]], other.layer_scores[["layer", "r"]])
    assert in_memory[0].training
    assert not in_memory[0].get_input_embeddings().training
    assert other.model_scores["revision"][lambda text: text.str.startswith("memory-")].size
    assert not list(tmp_path.iterdir()), "nothing is written into the current folder"


def test_changed_weights_in_memory_are_another_model(in_memory, recording, tmp_path):
    model, tokenizer = in_memory
    before = evaluate({"now": (model, tokenizer)}, recording, "strict", out=tmp_path, **QUIET)
    with_noise = next(parameter for parameter in model.parameters() if parameter.ndim > 1)
    with_noise.data.mul_(-1.5)
    after = evaluate({"now": (model, tokenizer)}, recording, "strict", out=tmp_path, **QUIET)
    assert before.run != after.run
    assert overall(before)["now"] != overall(after)["now"]
    assert load_scores(tmp_path).run == after.run


def test_a_stored_evaluation_is_not_computed_again(folder, recording, tmp_path, monkeypatch):
    first = evaluate(str(folder), recording, "strict", out=tmp_path, **QUIET)
    monkeypatch.setattr("harness.runs.in_process.InProcess.work", None)
    again = evaluate(str(folder), recording, "strict", out=tmp_path, **QUIET)
    assert again.run == first.run
    pd.testing.assert_frame_equal(again.model_scores, first.model_scores)


def test_a_control_that_is_what_the_recording_follows_predicts_it(recording, folder, hidden_feature):
    found = evaluate(
        str(folder), recording, "strict", progress=False, variants=(),
        controls={"truth": hidden_feature[:, None], "lengths": lambda data: [[len(t)] for t in data.stimuli.texts]},
    )  # fmt: skip
    scores = found.neuroid_scores[lambda frame: frame["model"] == "truth"].set_index("neuroid_id")["r"]
    assert scores[["v0", "v1", "v2"]].min() > 0.8
    assert abs(scores[["v3", "v4", "v5"]].mean()) < 0.3
    of_model = found.model_scores[lambda frame: (frame["target"] == "all") & (frame["kind"] == "model")]
    assert "truth" in of_model["unique_over"].iloc[0]


def test_an_empty_list_of_controls_is_none(folder, recording):
    found = evaluate(str(folder), recording, "strict", **QUIET | {"controls": []})
    assert set(found.model_scores["kind"]) == {"model"}


def spearman(predicted, observed):
    return np.array([spearmanr(predicted[:, k], observed[:, k]).statistic for k in range(observed.shape[1])])


def test_an_own_metric_is_computed_on_the_held_out_predictions(recording, folder, tmp_path):
    own = replace(synthetic.STRICT, context="passage")
    found = evaluate(str(folder), recording, own, metric=spearman, keep=("predictions",), out=tmp_path, **QUIET)
    assert set(found.neuroid_scores["metric"]) == {"spearman"}
    (file,) = [path for path in tmp_path.rglob("predictions.npz")
               if "length" not in (path.parent / "manifest.json").read_text()]  # fmt: skip
    kept = np.load(file)
    scores = found.split_scores[lambda frame: frame["kind"] == "model"].set_index(["fold", "neuroid_id"])["r"]
    for fold in set(kept["fold"].tolist()):
        rows = kept["fold"] == fold
        for k, neuroid in enumerate(kept["neuroid_id"]):
            wanted = spearmanr(kept["predicted"][rows, k], kept["observed"][rows, k]).statistic
            assert scores[fold, neuroid] == pytest.approx(wanted, abs=1e-6)


def test_frames_are_a_recording(folder, recording):
    stimuli = pd.DataFrame({
        "stimulus_id": recording.stimuli.ids, "text": recording.stimuli.texts, "passage": recording.stimuli.passages,
    })  # fmt: skip
    responses = pd.DataFrame(recording.responses.values, columns=list(recording.responses.neuroid_ids))
    responses.insert(0, "row_id", recording.stimuli.ids)
    neuroids = pd.DataFrame({"neuroid_id": recording.responses.neuroid_ids, "subject": recording.responses.subjects})
    frames = {"stimuli": stimuli, "responses": responses, "neuroids": neuroids, "dataset": {"name": "framed"}}
    of_frames = evaluate(str(folder), frames, "strict", **QUIET)
    assert set(of_frames.model_scores["dataset"]) == {"framed"}
    of_record = evaluate(str(folder), recording, "strict", **QUIET)
    pd.testing.assert_series_equal(overall(of_frames), overall(of_record))


def wrong_shape(predicted, observed):
    return 1.0


@pytest.mark.parametrize(("change", "message"), [
    ({"protocol": "stric"}, "protocol 'stric' is unknown; the nearest are strict"),
    ({"dataset": "pereira2019"}, "data set 'pereira2019' is unknown; the nearest are pereira2018"),
    ({"dataset": 3}, "a data set is a int; give a name"),
    ({"model": "gtp2"}, "model 'gtp2' is neither"),
    ({"model": 3}, "a model is a int; give a name"),
    ({"controls": {"oasm": [[1.0]]}}, "'oasm' is the name of a built-in control"),
    ({"controls": ["lenght"]}, "control 'lenght' is unknown; the nearest are length"),
    ({"controls": {"mine": "abc"}}, "control 'mine': wanted finite numbers"),
    ({"controls": {"mine": [float("nan")] * 60}}, "control 'mine': wanted finite numbers"),
    ({"metric": "pearson"}, "metric 'pearson' is unknown"),
    ({"metric": lambda predicted, observed: observed[0]}, "a named function of predictions and observations"),
    ({"metric": wrong_shape}, "metric 'wrong_shape' returned float; wanted one score per neuroid"),
    ({"model": []}, "no model was given"),
    ({"dataset": []}, "no data set or no protocol"),
    ({"protocol": ()}, "no data set or no protocol"),
])  # fmt: skip
def test_bad_input_is_named(change, message, folder, recording):
    wanted = {"model": str(folder), "dataset": recording, "protocol": "strict"} | QUIET | change
    with pytest.raises(ValueError, match=message):
        evaluate(**wanted)


def test_an_unknown_option_is_named(folder, recording):
    with pytest.raises(TypeError, match="option 'sed' is unknown; the nearest are seed"):
        evaluate(str(folder), recording, "strict", sed=1)


def test_what_fails_is_reported_and_the_rest_is_scored(folder, recording):
    with pytest.warns(
        UserWarning, match=r"1 failed, first short, mine: ValueError: control 'short' has shape \(3, 1\)"
    ):
        found = evaluate(str(folder), recording, "strict", progress=False, variants=(), controls={"short": [1, 2, 3]})
    assert list(found.failures["model"]) == ["short"]
    assert overall(found)["tiny-own"] == pytest.approx(
        overall(evaluate(str(folder), recording, "strict", **QUIET))["tiny-own"]
    )


def test_results_name_their_tables(folder, recording):
    found = evaluate(str(folder), recording, "strict", **QUIET)
    assert "model_scores" in dir(found)
    assert "<table" in found._repr_html_()
    with pytest.raises(ValueError, match="table 'model_score' is unknown; the nearest are model_scores"):
        found["model_score"]
    with pytest.raises(AttributeError):
        _ = found.model_score


def test_ray_is_not_loaded():
    script = "import sys, harness.runs.in_process\nfrom harness import evaluate, surprisal\nprint('ray' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == "False"


def test_a_plan_has_one_row_per_model_and_says_what_does_not_fit():
    frame = plan(["llama-7b", "llama-2-70b"], nodes=1, gpus_per_node=1, gpu_memory_gb=40).set_index("model")
    assert frame.loc["llama-7b", "end_s"] > 0
    assert frame.loc["llama-7b", "reason"] == ""
    assert "GB" in frame.loc["llama-2-70b", "reason"]
    with pytest.raises(ValueError, match="rate 'usd' is unknown"):
        plan(["llama-7b"], usd=1)
