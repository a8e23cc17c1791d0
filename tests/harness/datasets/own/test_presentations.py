"""Sentences that were presented more than once: averaged or kept, and without any leak."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from harness import datasets
from harness.cli import commands
from harness.records import Features, Layer
from harness.scoring import aggregate, brain_scores, folds
from harness.storage.store import Store
from harness.units.ceiling_units import compute_ceiling

WORDS = ("old", "dog", "slept", "quiet", "river", "while", "rain", "fell", "grey", "roof", "left", "house", "noon")
NEUROIDS = ("v1", "v2", "v3", "v4")


def texts(n, seed=0):
    rng = np.random.default_rng(seed)
    return [f"The {' '.join(rng.permutation(WORDS)[:6])} {k}." for k in range(n)]


def session(n=40, n_repetitions=3, *, signal=0.5, seed=0):
    """Sentences in another order in each repetition, as a frame: text, repetition, sentence, and the responses."""
    rng = np.random.default_rng(seed)
    shown, shared = texts(n, seed), np.sqrt(signal) * rng.standard_normal((n, len(NEUROIDS)))
    rows = [(k, repetition) for repetition in range(n_repetitions) for k in rng.permutation(n)]
    frame = pd.DataFrame(rows, columns=["sentence", "repetition"])
    noise = np.sqrt(1 - signal) * rng.standard_normal((len(frame), len(NEUROIDS)))
    frame[list(NEUROIDS)] = shared[frame.sentence] + noise
    frame["text"] = [shown[k] for k in frame.sentence]
    frame["stimulus_id"] = [f"r{row.repetition}.s{row.sentence}" for row in frame.itertuples()]
    return frame


def put(folder, frame, settings=None, columns=()):
    """Write a folder in which each row of the frame is a stimulus with responses; returns the name of the data set."""
    folder.mkdir(parents=True, exist_ok=True)
    frame[["stimulus_id", "text", *columns]].to_csv(folder / "stimuli.csv", index=False)
    answered = frame.dropna(subset=list(NEUROIDS), how="all")
    responses = answered[["stimulus_id", *NEUROIDS]].rename(columns={"stimulus_id": "row_id"})
    responses.to_csv(folder / "responses.csv", index=False)
    if settings:
        (folder / "dataset.json").write_text(json.dumps(settings))
    return f"local:{folder}"


def strict(name):
    return datasets.protocols(name)["strict"]


# --- averaged ---------------------------------------------------------------------------------------------------------


def test_presentations_are_averaged_to_one_row_per_sentence(tmp_path, capsys):
    frame = session()
    name = put(tmp_path / "lab", frame)
    loaded = datasets.load(name, ".")
    assert loaded.stimuli.ids == loaded.responses.row_ids == tuple(frame.stimulus_id[:40])
    means = frame.groupby("sentence")[list(NEUROIDS)].mean().loc[frame.sentence[:40]]
    np.testing.assert_allclose(loaded.responses.values, means, rtol=1e-5)
    assert loaded.repetitions.values.shape == (3, 40, 4)
    assert loaded.repetitions.n_of_row.tolist() == [3] * 40
    assert set(loaded.responses.row_texts) == {""}
    assert strict(name).folds.kind == "kfold"
    assert commands.main(["datasets", name]) == 0
    output = " ".join(capsys.readouterr().out.split())
    assert "40 texts were presented more than once (3 repetitions): a row is the mean over the presentations" in output
    assert "Texts presented more than once: 3 repetitions, averaged." in output


def test_case_quotation_marks_and_a_full_stop_do_not_matter_but_a_question_mark_does(tmp_path):
    frame = session(n_repetitions=4)
    change = {0: str, 1: lambda text: text.upper().rstrip("."), 2: "“{}”".format, 3: lambda text: text[:-1] + "?"}
    frame["text"] = [change[row.repetition](row.text) for row in frame.itertuples()]
    loaded = datasets.load(put(tmp_path / "lab", frame), ".")
    assert loaded.repetitions.n_of_row.tolist() == [3] * 40 + [1] * 40
    assert len(set(loaded.responses.row_groups)) == 40
    by_text = dict(zip(loaded.responses.row_texts[:40], loaded.responses.row_groups[:40], strict=True))
    assert [by_text[text] for text in loaded.responses.row_texts[40:]] == list(loaded.responses.row_groups[40:])


def test_missing_values_and_unequal_numbers_are_left_out_of_means(tmp_path):
    frame = session()
    frame.loc[(frame.repetition == 1) & (frame.sentence < 10), "v2"] = np.nan
    frame = frame[(frame.repetition < 2) | (frame.sentence < 20)]
    loaded = datasets.load(put(tmp_path / "lab", frame), ".")
    means = frame.groupby("sentence")[list(NEUROIDS)].mean().loc[frame.sentence[:40]]
    np.testing.assert_allclose(loaded.responses.values, means, rtol=1e-5)
    assert sorted(loaded.repetitions.n_of_row) == [2] * 20 + [3] * 20
    assert loaded.repetitions.in_words == "2 to 3 repetitions"
    some = datasets.load(put(tmp_path / "some", frame[(frame.repetition == 0) | (frame.sentence < 20)]), ".")
    assert some.repetitions.in_words == "3 repetitions of 20 of 40 texts"


def test_the_groups_of_averaged_presentations_are_one(tmp_path):
    """Group 1 repeats a sentence of group 0 and has others: their noise is in the mean, which is a row of group 0."""
    frame = session(n=60, n_repetitions=1).assign(group=lambda f: [f"g{k}" for k in f.index // 15])
    frame.loc[15, "text"] = frame.text[0].upper()
    loaded = datasets.load(put(tmp_path / "lab", frame, columns=["group"]), ".")
    assert loaded.repetitions.in_words == "2 repetitions of 1 of 59 texts"
    assert loaded.responses.row_groups == ("g0",) * 29 + ("g2",) * 15 + ("g3",) * 15


def test_three_forms_of_the_same_recording_are_the_same(tmp_path):
    frame = (
        session().sort_values(["repetition", "sentence"]).assign(repetition=lambda f: "run " + f.repetition.astype(str))
    )
    by_text = datasets.load(put(tmp_path / "a", frame), ".")
    shuffled = frame.sample(frac=1, random_state=0)  # the numbers say which presentation is which
    numbered = datasets.load(put(tmp_path / "b", shuffled, columns=["repetition"]), ".")
    order = np.argsort(numbered.stimuli.texts)
    np.testing.assert_allclose(
        numbered.responses.values[order], by_text.responses.values[np.argsort(by_text.stimuli.texts)], rtol=1e-5
    )
    by_id = tmp_path / "c"
    by_id.mkdir()
    frame["row_id"] = [f"s{k}" for k in frame.sentence]
    once = frame[frame.repetition == "run 0"]
    once.assign(stimulus_id=once.row_id)[["stimulus_id", "text"]].to_csv(by_id / "stimuli.csv", index=False)
    frame[["row_id", "repetition", *NEUROIDS]].to_csv(by_id / "responses.csv", index=False)
    loaded = datasets.load(f"local:{by_id}", ".")
    assert loaded.stimuli.ids == tuple(f"s{k}" for k in range(40))
    np.testing.assert_array_equal(loaded.responses.values, by_text.responses.values)
    np.testing.assert_array_equal(loaded.repetitions.values, by_text.repetitions.values)
    (by_id / "dataset.json").write_text('{"repetitions": "keep"}')
    kept = datasets.load(f"local:{by_id}", ".")
    assert kept.responses.row_ids == (*(f"s{k}" for k in range(40)), *(f"s{k}#{n}" for n in (2, 3) for k in range(40)))


def test_the_ceiling_is_the_explainable_variance(tmp_path):
    """Half of the variance repeats: sqrt(.75) for the mean of three, sqrt(.5) for single responses."""
    frame = session(n=300, signal=0.5)
    for setting, wanted, kind in (
        ("average", 0.75, "explainable variance of 3 repetitions"),
        ("keep", 0.5, "explainable variance of 3 repetitions, for single responses"),
    ):
        name = put(tmp_path / setting, frame, {"repetitions": setting, "ceiling": {"value": 0.1, "source": "ours"}})
        ceiling = compute_ceiling(datasets.load(name, "."), strict(name), Store(str(tmp_path / "out")))
        assert ceiling.kinds == (kind,) * 4
        assert np.median(ceiling.values) == pytest.approx(np.sqrt(wanted), abs=0.04)


# --- passages ---------------------------------------------------------------------------------------------------------


def passages(*, changed=""):
    """Six passages of three sentences, each presented twice; in the last passage the first sentence may be changed."""
    frame = pd.DataFrame([(p, k, r) for r in range(2) for p in range(6) for k in range(3)], columns=["p", "k", "r"])
    shown = texts(18)
    frame["text"] = ["Yes." if row.k == 1 else shown[3 * row.p + row.k] for row in frame.itertuples()]
    if changed:
        frame.loc[33, "text"] = changed
    frame["stimulus_id"] = [f"r{row.r}.p{row.p}.{row.k}" for row in frame.itertuples()]
    frame["passage"] = [f"r{row.r}.p{row.p}" for row in frame.itertuples()]
    frame[list(NEUROIDS)] = np.random.default_rng(0).standard_normal((len(frame), 4))
    return frame


def test_passages_presented_twice_are_averaged_whole(tmp_path):
    frame = passages()
    few = {"strict": {"folds": {"kind": "grouped", "n": 3, "min_test_rows": 3}}}
    loaded = datasets.load(put(tmp_path / "lab", frame, few, columns=["passage"]), ".")
    assert loaded.stimuli.ids == loaded.responses.row_ids == tuple(frame.stimulus_id[:18])
    assert len(set(loaded.responses.row_groups)) == 6
    values = frame[list(NEUROIDS)].to_numpy()
    np.testing.assert_allclose(loaded.responses.values, (values[:18] + values[18:]) / 2, rtol=1e-5)


def test_a_sentence_after_another_context_is_kept_as_a_row_of_the_same_group(tmp_path):
    frame = passages(changed="Something else came first here.")
    few = {"strict": {"folds": {"kind": "grouped", "n": 3, "min_test_rows": 3}}}
    name = put(tmp_path / "lab", frame, few, columns=["passage"])
    loaded = datasets.load(name, ".")
    assert loaded.responses.row_ids[18:] == tuple(frame.stimulus_id[33:])
    assert set(loaded.responses.row_groups[15:]) == {"r0.p5"}
    assert loaded.stimuli.passages[18:] == ("r1.p5",) * 3
    assert any("the 7 groups are 6" in note for note in datasets.find(name).notes)


def test_one_sentence_in_two_passages_joins_their_groups(tmp_path):
    frame = passages()[:18]
    frame.loc[[2, 8], "text"] = "The same sentence in two passages."
    few = {"strict": {"folds": {"kind": "grouped", "n": 3, "min_test_rows": 3}}}
    loaded = datasets.load(put(tmp_path / "lab", frame, few, columns=["passage"]), ".")
    assert loaded.repetitions is None
    groups = dict(zip(loaded.stimuli.passages, loaded.responses.row_groups, strict=True))
    assert groups == {f"r0.p{p}": f"r0.p{0 if p == 2 else p}" for p in range(6)}


# --- kept -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [None, "kfold", "grouped", "contiguous"])
def test_kept_presentations_are_never_trained_and_tested_on(tmp_path, rule):
    settings = {"repetitions": "keep"} | ({"strict": {"folds": {"kind": rule, "n": 4}}} if rule else {})
    name = put(tmp_path / "lab", session(), settings)
    loaded = datasets.load(name, ".")
    assert len(loaded.responses.row_ids) == 120
    assert loaded.repetitions.n_of_row.tolist() == [1] * 120
    text = dict(zip(loaded.stimuli.ids, loaded.stimuli.texts, strict=True))
    made = folds.of_recording(strict(name).folds, loaded)
    assert len(made) > 3
    for _, fold in made:
        train, test = ({text[loaded.responses.row_ids[row]] for row in side} for side in fold)
        assert train
        assert not train & test
    (_, warning, *_) = [note for note in datasets.protocols(name)["paper"].notes if "texts" in note.lower()]
    assert "random splits train and test on the same texts" in warning


def test_sentences_in_runs_are_kept_since_their_contexts_differ(tmp_path):
    frame = session().assign(passage=lambda f: "run " + f.repetition.astype(str))
    name = put(tmp_path / "lab", frame, columns=["passage"])
    loaded = datasets.load(name, ".")
    assert loaded.repetitions is None
    assert len(set(loaded.responses.row_groups)) == 1
    assert strict(name).folds.kind == "contiguous"
    assert "Repeated texts join all groups" in strict(name).notes[0]
    for _, fold in folds.of_recording(strict(name).folds, loaded):
        train, test = ({loaded.stimuli.texts[row] for row in side} for side in fold)
        assert len(train) > 10
        assert not train & test
    alone = datasets.load(put(tmp_path / "lab", frame, {"context": "none"}, columns=["passage"]), ".")
    assert len(alone.responses.row_ids) == 40


# --- errors -----------------------------------------------------------------------------------------------------------


def test_texts_that_are_all_the_same_are_an_error(tmp_path):
    frame = session().assign(text=lambda f: ["It rained.", "it rained", "It, rained!"] * (len(f) // 3))
    with pytest.raises(ValueError, match=r"all 120 sentences with a response have the same text, 'It rained.'"):
        datasets.find(put(tmp_path / "lab", frame))


def test_numbers_that_do_not_tell_presentations_apart_are_an_error(tmp_path):
    frame = session().assign(repetition=1)
    with pytest.raises(ValueError, match=r"have the same text, but their column 'repetition' does not tell them apart"):
        datasets.find(put(tmp_path / "lab", frame, columns=["repetition"]))


def test_several_rows_of_one_stimulus_need_numbers(tmp_path):
    frame = session().assign(stimulus_id=lambda f: [f"s{k}" for k in f.sentence])
    name = put(tmp_path / "lab", frame)
    frame[frame.repetition == 0][["stimulus_id", "text"]].to_csv(tmp_path / "lab" / "stimuli.csv", index=False)
    with pytest.raises(ValueError, match=r"row_id 's.*' appears more than once .* in a column 'repetition'"):
        datasets.find(name)
    rows = frame.rename(columns={"stimulus_id": "row_id"})[["row_id", "repetition", *NEUROIDS]].assign(repetition=1)
    rows.to_csv(tmp_path / "lab" / "responses.csv", index=False)
    with pytest.raises(ValueError, match=r"row_id 's.*' appears more than once in repetition '1'"):
        datasets.find(name)


def test_random_splits_of_kept_presentations_are_rejected_for_strict(tmp_path):
    settings = {"repetitions": "keep", "strict": {"folds": {"kind": "shuffled", "n": 5, "test_fraction": 0.2}}}
    with pytest.raises(ValueError, match="random splits were requested for STRICT, but texts are presented in several"):
        datasets.find(put(tmp_path / "lab", session(), settings))
    with pytest.raises(ValueError, match="repetitions is 'mean'; use one of average, keep"):
        datasets.find(put(tmp_path / "other", session(), {"repetitions": "mean"}))


# --- no leak ----------------------------------------------------------------------------------------------------------


def null_scores(folder, settings, protocol_name, n_seeds=6):
    """r of features that only identify a text, with responses that are random for each text."""
    scores = []
    for seed in range(n_seeds):
        frame = session(n=60, signal=0.6, seed=seed)
        name = put(folder / str(seed), frame, settings)
        loaded, protocol = datasets.load(name, "."), datasets.protocols(name)[protocol_name]
        vectors = np.random.default_rng(seed).standard_normal((60, 24)).astype(np.float32)
        features = Features({Layer("decoder", 1): vectors[frame.sentence]}, tuple(frame.stimulus_id))
        (fit,) = brain_scores.score_layers(features, loaded.responses, protocol).values()
        scores.append(aggregate.layer_score(fit, aggregate.targets(loaded.responses)["all"]))
    return np.array(scores)


@pytest.mark.parametrize(
    ("setting", "protocol"),
    [("average", "strict"), ("average", "paper"), ("keep", "strict"), ("keep", "brainscore2026")],
)
def test_responses_unrelated_to_the_text_score_0(tmp_path, setting, protocol):
    """Standard error of the mean about 0.03; r of each text with itself would be about 0.3 (next test)."""
    assert abs(null_scores(tmp_path, {"repetitions": setting}, protocol).mean()) < 0.1


def test_random_splits_of_kept_presentations_leak_as_the_warning_says(tmp_path):
    assert null_scores(tmp_path, {"repetitions": "keep"}, "paper", 3).mean() > 0.25


def leaking(name):
    """Fraction of the test rows under STRICT whose text is also in the training rows."""
    loaded = datasets.load(name, ".")
    text = dict(zip(loaded.stimuli.ids, loaded.stimuli.texts, strict=True))
    shown = np.array([text[row_id] for row_id in loaded.responses.row_ids])
    parts = folds.of_responses(strict(name).folds, loaded.responses)
    return np.concatenate([np.isin(shown[fold.test], shown[fold.train]) for fold in parts]).mean()


@pytest.mark.parametrize("settings", [{}, {"repetitions": "keep"}, {"context": "none"}])
def test_words_presented_in_every_run_are_not_in_training_and_test_rows(tmp_path, settings):
    frame = session(60).assign(passage=lambda f: "run " + f.repetition.astype(str))
    frame["text"] = [f"word{number}" for number in frame.sentence]
    assert leaking(put(tmp_path / "lab", frame, settings, columns=["passage"])) == 0


@pytest.mark.parametrize(("n_runs", "kind"), [(3, "contiguous"), (8, "kfold")])
def test_whole_texts_are_left_out_where_blocks_of_time_would_leave_too_few_rows(tmp_path, n_runs, kind):
    frame = session(40, n_runs).assign(passage=lambda f: "run " + f.repetition.astype(str))
    name = put(tmp_path / "lab", frame, {"repetitions": "keep"}, columns=["passage"])
    parts = folds.of_responses(strict(name).folds, datasets.load(name, ".").responses)
    assert strict(name).folds.kind == kind
    assert min(len(fold.train) for fold in parts) >= 12
    assert leaking(name) == 0


@pytest.mark.parametrize("setting", ["average", "keep"])
def test_a_passage_of_short_phrases_presented_twice_is_not_in_training_and_test_rows(tmp_path, setting):
    frame = session(60, 2).sort_values(["repetition", "sentence"])
    frame["text"] = [f"word{number} slept" for number in frame.sentence]
    frame["passage"] = [f"r{row.repetition}.p{row.sentence // 5}" for row in frame.itertuples()]
    assert leaking(put(tmp_path / "lab", frame, {"repetitions": setting}, columns=["passage"])) == 0
