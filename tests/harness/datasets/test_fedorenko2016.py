"""Fedorenko2016 from files of the published form: structure as in Brain-Score's data_packaging and its own test."""

from __future__ import annotations

import numpy as np
import pytest
import xarray
from sklearn.model_selection import GroupKFold, ShuffleSplit

from harness.datasets import fedorenko2016
from harness.scoring import folds
from harness.text import contexts
from tests.harness.datasets import published


def stored(path):
    with xarray.open_dataset(path, engine="h5netcdf") as file:
        return file.load()


def test_words_are_read_in_the_order_of_their_sentences(tmp_path):
    in_order, shuffled = (
        fedorenko2016.read(published.fedorenko(tmp_path / f"{is_shuffled}.nc", 52, shuffled=is_shuffled))
        for is_shuffled in (False, True)
    )
    assert in_order.responses.values.shape == (416, 97)
    assert in_order.stimuli.ids == shuffled.stimuli.ids == tuple(str(k) for k in range(416))
    assert in_order.stimuli.texts == shuffled.stimuli.texts
    assert len(set(in_order.stimuli.passages)) == 52
    assert in_order.responses.row_groups == in_order.stimuli.passages  # words that recur do not merge sentences
    assert set(in_order.responses.row_texts) == {""}
    np.testing.assert_array_equal(shuffled.stimuli.positions().reshape(52, 8), np.tile(np.arange(8), (52, 1)))


def test_values_have_the_words_and_electrodes_of_the_file(tmp_path):
    path = published.fedorenko(tmp_path / "file.nc")
    raw, dataset = stored(path), fedorenko2016.read(path)
    responses = dataset.responses
    for row in (0, 7, 50):
        place = list(raw["stimulus_id"].values).index(int(responses.row_ids[row]))
        assert dataset.stimuli.texts[row] == raw["word"].values[place]
        np.testing.assert_allclose(responses.values[row], raw["data"].values[place], rtol=1e-6)
    assert [responses.subjects.count(subject) for subject in "12345"] == [47, 8, 9, 15, 18]
    assert responses.neuroid_ids[:2] == ("0", "1")


def test_the_context_of_a_word_is_its_sentence_so_far(tmp_path):
    dataset = fedorenko2016.read(published.fedorenko(tmp_path / "file.nc"))
    for protocol in fedorenko2016.ENTRY.protocols:
        built = contexts.build(dataset.stimuli, protocol.context)
        assert len(built) == 12
        assert built[0].text == "THE BAKER OF ANN0 SAW0 A CANDLE AGAIN0"
        start, end = built[0].spans[1]
        assert built[0].text[start:end].strip() == "BAKER"


def test_folds_are_those_of_brain_scores_benchmarks(tmp_path):
    """Fedorenko2016-ridge: GroupKFold over sentence_id, seed 1234; -linear-shuffle: ShuffleSplit, seed 1."""
    path = published.fedorenko(tmp_path / "file.nc", 52)
    raw, dataset = stored(path), fedorenko2016.read(path)
    ids, rows = np.array(dataset.responses.row_ids), np.zeros((416, 1))
    by_sentence = GroupKFold(10, shuffle=True, random_state=1234).split(rows, groups=raw["sentence_id"].values)
    at_random = ShuffleSplit(10, train_size=0.9, random_state=1).split(rows)
    for protocol, wanted in ((fedorenko2016.BRAINSCORE2026, by_sentence), (fedorenko2016.PAPER, at_random)):
        ours = [set(ids[fold.test]) for _, fold in folds.of_recording(protocol.folds, dataset)]
        there = [set(raw["stimulus_id"].values[test].astype(str)) for _, test in wanted]
        assert len(ours) == 10
        assert ours == there
    strict = folds.of_recording(fedorenko2016.STRICT.folds, dataset)
    assert {len(fold.test) for _, fold in strict} == {40, 48}


@pytest.mark.parametrize(("change", "message"), [
    (lambda raw: raw.drop_vars("word_num"), "no variable 'word_num'; there are data, electrode"),
    (lambda raw: raw.assign_coords(word_num=("presentation", np.zeros(96, int))), "has two words with word_num 0"),
    (lambda raw: raw.assign_coords(sentence_id=("presentation", np.full(96, 0.5))), "sentence_id of row 0 is '0.5'"),
    (lambda raw: raw.expand_dims(time_bin=2, axis=2), "'data' has dimensions .*time_bin.*, wanted"),
])  # fmt: skip
def test_the_error_for_a_damaged_file_names_the_fault(change, message, tmp_path):
    raw = stored(published.fedorenko(tmp_path / "whole.nc"))
    changed = change(raw)
    changed.to_netcdf(tmp_path / "damaged.nc", engine="h5netcdf")
    with pytest.raises(ValueError, match=message):
        fedorenko2016.read(tmp_path / "damaged.nc")
