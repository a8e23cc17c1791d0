"""The table of data sets: properties of every entry."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from harness import datasets
from harness.datasets import DATASETS
from harness.datasets.entry import version_of
from harness.records import Dataset, Stimuli
from harness.scoring import folds

WITH_FILES = [name for name, entry in DATASETS.items() if entry.files and entry.kind != "text"]
# Data sets whose published files are available to the tests; for the others the tests write files of the same format.
AVAILABLE = ["futrell2018-2016", "futrell2018-2021", "futrell2018-batch2", "tuckute2024", "brennan2016"]
LPP = ["lepetitprince-en", "lepetitprince-fr", "lepetitprince-zh"]
WITHOUT_BRAINSCORE = ["wehbe2014", "wehbe2014-authors", "lebel2023", "narratives", *LPP]
TUCKUTE = ["tuckute2024-participants", "tuckute2024-brainscore"]


def values_of(dataset: Dataset) -> np.ndarray:
    values = dataset.responses.values if dataset.responses else dataset.reading.mean_ms
    return np.asarray(values)


@pytest.fixture(scope="module", params=AVAILABLE)
def loaded(request, shared) -> tuple[str, Dataset]:
    return request.param, datasets.load(request.param, shared / "data")


def test_the_data_sets_with_files_are_in_the_table():
    assert set(WITH_FILES) == {
        *AVAILABLE,
        "pereira2018",
        "blank2014",
        "fedorenko2016",
        "wehbe2014",
        "wehbe2014-authors",
        "lebel2023",
        "narratives",
        *LPP,
        *TUCKUTE,
    }


@pytest.mark.parametrize("name", AVAILABLE)
def test_every_file_is_pinned_and_has_a_source(name):
    entry = DATASETS[name]
    assert entry.citation
    assert entry.landing.startswith("https://")
    for file in entry.files:
        algorithm, _, digest = file.checksum.partition(":")
        assert len(digest) == {"sha1": 40, "sha256": 64}[algorithm]
        assert file.n_bytes > 0 or name not in AVAILABLE
        assert not Path(file.path).is_absolute()
        assert file.url == "" or file.url.startswith("https://")


def test_loading_twice_gives_the_same_data(loaded, shared):
    name, first = loaded
    second = datasets.load(name, shared / "data")
    assert first.version == second.version
    assert len(first.version) == 16
    assert first.stimuli.ids == second.stimuli.ids
    np.testing.assert_array_equal(values_of(first), values_of(second))


def test_a_data_set_has_the_kind_declared_in_the_table(loaded):
    name, dataset = loaded
    assert dataset.name == name
    assert (dataset.responses is not None) == (DATASETS[name].kind == "brain")
    assert (dataset.reading is not None) == (DATASETS[name].kind == "reading")
    assert np.isfinite(values_of(dataset)).all()


@pytest.mark.parametrize("name", WITH_FILES)
def test_every_data_set_has_its_protocols(name):
    protocols = datasets.protocols(name)
    is_brain = DATASETS[name].kind == "brain"
    has_brainscore = is_brain and name not in WITHOUT_BRAINSCORE
    wanted = ["paper", "strict", *(["equal"] if is_brain else []), *(["brainscore2026"] if has_brainscore else [])]
    assert [(key, protocol.name) for key, protocol in protocols.items()] == [(key, key) for key in wanted]
    assert len({protocol.hash for protocol in protocols.values()}) == len(wanted)
    assert all(protocol.notes for protocol in protocols.values())


@pytest.mark.parametrize("name", [name for name, entry in DATASETS.items() if entry.kind != "text"])
def test_strict_rejects_test_folds_of_fewer_than_ten_rows(name):
    rule = datasets.protocols(name)["strict"].folds
    assert rule.min_test_rows == 10
    n_groups = 2 if rule.kind == "grouped" else rule.n  # several small groups are held out together
    with pytest.raises(ValueError, match="test rows"):
        folds.make(rule, [f"group {row // 9}" for row in range(9 * n_groups)])


@pytest.mark.parametrize("name", [name for name, entry in DATASETS.items() if entry.kind == "brain"])
def test_strict_ridge_has_relative_alphas_chosen_by_group_for_each_neuroid(name):
    regression = datasets.protocols(name)["strict"].regression
    assert (regression.kind, regression.relative, regression.inner) == ("ridge", True, "groups")
    assert (regression.scale, regression.per_neuroid, regression.tie) == ("center", True, "larger")
    assert (min(regression.alphas), max(regression.alphas)) == (1e-8, 1e7)


@pytest.mark.parametrize("name", [name for name in DATASETS if "brainscore2026" in datasets.protocols(name)])
def test_brainscore2026_is_the_ridge_of_brain_score_language(name):
    protocol = datasets.protocols(name)["brainscore2026"]
    assert protocol.regression.alphas == tuple(np.logspace(-3, 3, 7).tolist())
    regression = protocol.regression
    assert (regression.kind, regression.relative, regression.per_neuroid) == ("ridge", False, False)
    assert regression.inner == "loo"
    assert (regression.scale, regression.tie, protocol.metric) == ("center", "smaller", "brainscore_r")


def test_the_error_for_a_missing_file_names_its_source_and_place(tmp_path):
    file = DATASETS["futrell2018-2016"].files[0]
    with pytest.raises(FileNotFoundError) as error:
        datasets.load("futrell2018-2016", tmp_path)
    for text in (file.path, file.url, str(tmp_path / file.path), "--data-root", "HARNESS_DATA"):
        assert text in str(error.value)


def test_the_error_for_a_missing_file_without_address_names_the_web_page(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"sites\.lsa\.umich\.edu/cnllab"):
        datasets.load("brennan2016", tmp_path)


def test_missing_lists_all_missing_files(tmp_path, shared):
    assert datasets.missing("brennan2016", tmp_path) == list(DATASETS["brennan2016"].files)
    assert len(DATASETS["brennan2016"].files) == 28
    assert datasets.missing("brennan2016", shared / "data") == []


def test_the_error_for_a_damaged_file_names_it(tmp_path, shared):
    file = DATASETS["tuckute2024"].files[0]
    (tmp_path / file.path).parent.mkdir()
    (tmp_path / file.path).write_bytes((shared / "data" / file.path).read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"bold_response_LH\.csv is damaged.*140741 bytes") as error:
        datasets.load("tuckute2024", tmp_path)
    assert file.checksum in str(error.value)


def test_the_error_for_an_unknown_name_lists_the_nearest():
    with pytest.raises(ValueError, match="'tukute2024' is unknown; the nearest are tuckute2024"):
        datasets.load("tukute2024", ".")
    with pytest.raises(ValueError, match="brennan2016"):
        datasets.expand("brennan")


def test_a_stem_expands_to_its_releases_and_a_full_name_to_itself():
    assert datasets.expand("futrell2018") == ("futrell2018-2016", "futrell2018-2021", "futrell2018-batch2")
    assert datasets.expand("futrell2018-2021") == ("futrell2018-2021",)
    assert datasets.expand("synthetic") == ("synthetic",)


def test_the_version_depends_on_every_id_text_and_value():
    stimuli = Stimuli(("a", "b"), ("one", "two"), ("p", "p"))
    values = np.array([1.0, np.nan])
    version = version_of(stimuli, values)
    assert version_of(stimuli, values.copy()) == version
    changed = [
        version_of(replace(stimuli, ids=("a", "c")), values),
        version_of(replace(stimuli, texts=("one", "too")), values),
        version_of(stimuli, np.array([1.0, 2.0])),
        version_of(stimuli, values.astype(np.float32)),
    ]
    assert version not in changed
    assert len(set(changed)) == 4


def test_listing_the_table_imports_no_heavy_library():
    code = "import sys, harness.datasets; print([m for m in ('pandas', 'ray', 'torch', 'scipy') if m in sys.modules])"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "[]"


def test_strict_and_equal_count_subjects_equally_and_the_others_pool_them():
    """`aggregate` of every data set with brain responses."""
    rules = {
        protocol.name: (protocol.aggregate, protocol.ceiling_curve)
        for entry in DATASETS.values() if entry.kind == "brain" for protocol in entry.protocols
    }  # fmt: skip
    by_subject, pooled = ("by subject", "reliability"), ("pooled", "exponential")
    assert rules == {"strict": by_subject, "equal": by_subject, "paper": pooled, "brainscore2026": pooled}
