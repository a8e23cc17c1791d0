"""The section of paired tests: one table per relation, with what was compared and how."""

from types import SimpleNamespace

import numpy as np
import pandas as pd

from harness.report import analysis_sections
from harness.statistics import paired


def _fold_scores():
    rng = np.random.default_rng(0)
    kinds = {"m": "model", "n": "model", "o": "model", "m:untrained": "untrained", "length": "control"}
    constant = {
        "dataset": "d", "dataset_version": "1", "protocol": "strict", "protocol_hash": "h", "target": "all",
        "metric": "pearson_r", "part": "", "n_averaged": 5, "fold_correlation": 0.25,
    }  # fmt: skip
    rows = [
        {**constant, "model": model, "kind": kind, "fold": fold, "subject": subject, "score": rng.normal(0.1, 0.05)}
        for model, kind in kinds.items() for fold in range(5) for subject in "abc"
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_each_relation_has_a_table_that_says_what_was_compared():
    results = SimpleNamespace(paired=paired.tests(_fold_scores(), {"n": "m", "o": "n"}))
    parts = analysis_sections.paired(results)
    captions = {part.caption.split(";")[0].split(".")[0]: part for part in parts}
    assert set(captions) == {
        "Model minus the same network with random weights", "Model minus control", "Model minus the best model",
        "Tuned model minus its untuned base", "Tuned model minus the previous stage of its tuning",
    }  # fmt: skip
    (row,) = captions["Model minus the same network with random weights"].rows
    assert row[:5] == ["m", "m:untrained", "d", "STRICT", "pearson_r"]
    assert row[-1] == "t over 5 folds and 3 subjects, corrected for shared training rows"
    test = results.paired.query("relation == 'untrained control'").iloc[0]
    assert row[6] == f"{test['difference']:+.4f}".replace("-", "−")


def test_without_scores_of_folds_there_is_no_section():
    assert analysis_sections.paired(SimpleNamespace(paired=pd.DataFrame(columns=list(paired.COLUMNS)))) == []
