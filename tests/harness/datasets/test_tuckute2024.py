"""Tuckute2024: sentences and neuroids as published."""

from __future__ import annotations

import numpy as np
import pytest
import xarray

from harness import datasets
from harness.scoring import aggregate
from harness.storage.store import Store
from harness.units.ceiling_units import compute_ceiling
from tests.harness.datasets import published


@pytest.fixture(scope="module")
def tuckute(shared):
    return datasets.load("tuckute2024", shared / "data")


def test_there_are_a_thousand_single_sentences_of_six_words(tuckute):
    assert len(tuckute.stimuli) == 1_000
    assert tuckute.stimuli.ids[0] == "B.1"
    assert tuckute.stimuli.texts[12] == "It was all ridiculous, crazy, insane."
    # A dash between spaces is not a word.
    assert {len([piece for piece in text.split() if piece.strip("-")]) for text in tuckute.stimuli.texts} == {6}
    assert tuckute.stimuli.passages == tuckute.stimuli.groups == tuckute.stimuli.ids


def test_there_are_five_regions_and_their_network(tuckute):
    responses = tuckute.responses
    assert responses.values.shape == (1_000, 6)
    assert responses.values.dtype == np.float32
    assert responses.row_ids == responses.row_groups == responses.row_blocks == tuckute.stimuli.ids
    assert set(responses.subjects) == {"group"}
    assert responses.rois[-1] == "LH network"
    assert responses.values[0] == pytest.approx(
        [0.31203292, 0.503357738, 0.171333328, 0.496015242, 0.479702804, 0.421033246]
    )


def test_regions_have_the_ceilings_that_the_authors_publish(tuckute, tmp_path):
    ceiling = compute_ceiling(tuckute, datasets.protocols("tuckute2024")["paper"], Store(tmp_path))
    assert ceiling.values.shape == (1, 6)
    assert ceiling.values[0, 5] == pytest.approx(0.55915458)
    assert ceiling.values[0, :5].mean() == pytest.approx(0.491, abs=5e-4)
    assert set(ceiling.kinds) == {"published by the authors, from the variance between participants"}


def test_the_network_correlates_with_the_mean_of_its_regions(tuckute):
    regions, network = tuckute.responses.values[:, :5], tuckute.responses.values[:, 5]
    assert np.corrcoef(regions.mean(axis=1), network)[0, 1] > 0.95


def test_strict_leaves_out_one_sentence_within_the_training_rows():
    strict = datasets.protocols("tuckute2024")["strict"]
    assert (strict.folds.kind, strict.folds.n, strict.folds.seed, strict.folds.min_test_rows) == ("kfold", 10, 0, 10)
    assert strict.regression.relative
    assert strict.regression.inner == "groups"
    assert len(strict.regression.alphas) == 16
    assert strict.layer_choice == "nested"


def test_the_network_is_a_target_of_its_own_and_not_a_region_of_all(tuckute):
    targets = aggregate.targets(tuckute.responses, "by subject")
    assert targets["all"].neuroids.tolist() == [0, 1, 2, 3, 4]
    assert targets["LH network"].neuroids.tolist() == [5]


# --- the participants one by one, and Brain-Score's assembly, from files of the published form ------------------------


@pytest.fixture
def archive(tmp_path):
    """Write the authors' archive with changed rows; returns the data root and the rows before the change."""

    def write(changed=lambda rows: rows, **how):
        rows = published.tuckute_archive(tmp_path / "tuckute2024" / "data.tar", 12, changed, **how)
        return tmp_path, rows

    return write


def load_participants(root):
    return datasets.load("tuckute2024-participants", root)


def test_participants_have_their_own_responses_to_the_baseline_sentences(archive):
    root, rows = archive()
    dataset = load_participants(root)
    responses = dataset.responses
    assert dataset.stimuli.ids == tuple(f"B.{k + 1}" for k in range(12))
    assert dataset.stimuli.texts[1] == "Sentence B.2 has six, words."
    assert responses.values.shape == (12, 60)
    assert sorted(set(responses.subjects), key=int) == sorted(map(str, published.PARTICIPANTS))
    assert np.isfinite(responses.values).all()
    baseline = [row for row in rows if row["cond"] == "B"]
    assert len(baseline) == responses.values.size
    for row in baseline:
        column = responses.neuroid_ids.index(f"{row['target_UID']}.{row['roi']}")
        value = responses.values[responses.row_ids.index(row["item_id"]), column]
        assert value == pytest.approx(float(row["response_target"]), rel=1e-6)


def test_the_mean_over_each_participants_regions_is_no_region_of_all(archive):
    targets = aggregate.targets(load_participants(archive()[0]).responses, "by subject")
    assert len(targets["all"].neuroids) == 50
    assert len(targets["all"].by_subject) == 10
    assert len(targets["LH network"].neuroids) == 10


def test_a_participant_without_a_sentence_or_with_an_empty_response_has_nan(archive):
    def changed(rows):
        for row in rows:
            if (row["target_UID"], row["item_id"]) == (797, "B.3"):
                row["response_target"] = ""
        return [row for row in rows if (row["target_UID"], row["item_id"]) != (837, "B.2")]

    responses = load_participants(archive(changed)[0]).responses
    rows, columns = np.nonzero(np.isnan(responses.values))
    cells = {(responses.row_ids[row], responses.subjects[column]) for row, column in zip(rows, columns, strict=True)}
    assert cells == {("B.2", "837"), ("B.3", "797")}
    assert len(rows) == 12


@pytest.mark.parametrize(("changed", "how", "message"), [
    (lambda rows: [*rows, next(row for row in rows if row["cond"] == "B")], {}, "B.* has more than one response"),
    (lambda rows: [row | {"sentence": row["sentence"] + row["roi"]} for row in rows], {}, "more than one sentence"),
    (lambda rows: [row | {"cond": "X"} for row in rows], {}, "no response with cond 'B'"),
    (lambda rows: [{k: v for k, v in row.items() if k != "roi"} for row in rows], {}, "has no column roi; it has"),
    (lambda rows: rows, {"table": "other.csv"}, "data.tar has 0 files brain-lang-data_participant"),
])  # fmt: skip
def test_the_error_for_another_archive_names_the_fault(changed, how, message, archive):
    root, _ = archive(changed, **how)
    with pytest.raises(ValueError, match=message):
        load_participants(root)


def test_the_error_for_a_file_that_is_no_archive_names_it(archive):
    root, _ = archive()
    path = root / "tuckute2024" / "data.tar"
    path.write_bytes(b"<html>moved</html>" * 100)
    with pytest.raises(ValueError, match=r"data\.tar cannot be read as the authors' archive"):
        load_participants(root)


def test_brain_scores_assembly_keeps_the_order_of_its_rows(tmp_path):
    path = published.tuckute_assembly(tmp_path / "tuckute2024" / "assy_Tuckute2024_language.nc", 12)
    dataset = datasets.load("tuckute2024-brainscore", tmp_path, pinned=False)
    assert dataset.stimuli.ids[:4] == ("B.1", "B.10", "B.11", "B.12")
    assert dataset.known_ceilings() == pytest.approx([0.55915458])
    assert dataset.responses.values.shape == (12, 1)
    assert dataset.responses.rois == ("LH network",)
    assert aggregate.targets(dataset.responses)["all"].neuroids.tolist() == [0]
    with xarray.open_dataset(path, engine="h5netcdf") as raw:
        np.testing.assert_allclose(dataset.responses.values, raw["data"].values, rtol=1e-6)


def test_the_network_of_the_file_has_the_maximum_of_brain_scores_assembly(tuckute):
    """Brain-Score's own test of its assembly: 1.28 < max < 1.29."""
    assert 1.28 < tuckute.responses.values[:, 5].max() < 1.29
