"""Statistics of the paper's own tables against known values, and the output of `harness analyse`."""

import json
import math
import re

import pandas as pd
import pytest

from harness.cli import commands
from harness.statistics import analysis, score_files
from harness.statistics.tuning import of_base

LOG_SIZE = "log10 n_parameters"


@pytest.fixture(scope="module")
def paper(shared):
    return analysis.analyse(score_files.read(str(shared / "paper" / "scores.csv")))


@pytest.fixture(scope="module")
def printed(shared):
    return json.loads((shared / "paper" / "statistics.json").read_text())


def correlation(analysis, name, population="tuned", covariate="", unit="model"):
    """The one row of a property's correlation with the average score."""
    rows = analysis.correlations
    conditions = {
        "dataset": "average",
        "property": name,
        "population": population,
        "covariate": covariate,
        "unit": unit,
    }
    for column, value in conditions.items():
        rows = rows[rows[column] == value]
    (row,) = rows.to_dict("records")
    return row


def test_gains_equal_the_recomputed_gains_of_the_paper(paper, printed):
    gains = of_base(paper.tuning).set_index("dataset")["gain_percent"].round(2)
    expected = printed["tuning_gain_percent"]["recomputed"]
    assert {f"{name}_r": gains[name] for name in gains.index if f"{name}_r" in expected} == expected


def test_correlations_equal_the_recomputed_correlations_of_the_paper(paper, printed):
    names = {"log10_n_parameters": LOG_SIZE}
    for name, r in printed["correlation_with_average_r_17_tuned"]["recomputed"].items():
        row = correlation(paper, names.get(name, name))
        assert (round(row["r"], 3), row["n"]) == (r, 17)
    row = correlation(paper, LOG_SIZE, "all")
    assert (round(row["r"], 2), row["n"]) == (
        printed["correlation_with_average_r_all_25"]["recomputed"]["log10_n_parameters"],
        25,
    )


def test_partial_correlations_of_size_and_knowledge(paper):
    row = correlation(paper, "mmlu", covariate=LOG_SIZE)
    assert (round(row["r"], 2), round(row["p"], 2)) == (-0.16, 0.56)
    assert round(correlation(paper, LOG_SIZE, covariate="mmlu")["r"], 2) == 0.84


def test_sign_flips_over_the_bases_of_the_paper(paper):
    rows = of_base(paper.tuning).set_index("dataset")
    assert set(rows["n_bases"]) == {8}
    p = rows["p_sign_flip"]
    assert (round(p["pereira2018"], 3), round(p["blank2014"], 2), round(p["wehbe2014"], 2)) == (0.008, 0.36, 0.11)
    assert p["average"] == 0.0625


def test_gains_of_families(paper):
    families = of_base(paper.families)
    rows = families[families["dataset"] == "average"].set_index("family")["gain_percent"].round(1)
    assert rows.to_dict() == {"t5": 7.5, "llama": 2.2, "gpt2": -2.3}


def test_tuning_has_no_significant_effect_on_reading_times(paper):
    assert of_base(paper.tuning).set_index("dataset").loc["futrell2018", "p_sign_flip"] > 0.05


def test_three_sentences_summarise_the_analysis(paper):
    summary = analysis.sentences(paper)
    assert len(summary) == 3
    assert (
        "+0.009 relative to their bases on average over the brain data sets (mean over 8 bases, 17 pairs" in summary[0]
    )
    assert "gain +6.0 %): interval and exact test disagree: the interval excludes 0, but the test does" in summary[0]
    assert "does not reject it (sign flips over bases, p = 0.0625)" in summary[0]
    assert "with alignment is log10 n_parameters, r = 0.95 (0.85 to 0.98) over 17 tuned models" in summary[1]
    assert "MMLU −0.16 (−0.61 to 0.37) (p = 0.557)" in summary[2]


def test_the_command_prints_tables_saves_them_and_prints_json(shared, tmp_path, capsys):
    path = str(shared / "paper" / "scores.csv")
    assert commands.main(["analyse", path, "--save", str(tmp_path / "statistics")]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"pereira2018 +base +17 +8 +6\.99", printed)
    assert re.search(r"pereira2018 +trained from +17 +8 ", printed)
    assert "shown in the tables, left out of the tests" in printed
    saved = pd.read_csv(tmp_path / "statistics" / "tuning.csv")
    assert saved["n_pairs"].tolist() == [17] * 10
    assert saved["relation"].tolist().count("base") == 5
    assert commands.main(["analyse", path, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["tuning"][0]["gain_percent"] == pytest.approx(6.993, abs=1e-3)
    values = [value for row in document["families"] for value in row.values()]
    assert values
    assert not any(isinstance(value, float) and math.isnan(value) for value in values)


def test_a_file_without_pairs_or_properties_is_accepted(tmp_path, capsys):
    (tmp_path / "s.csv").write_text("model,x_score\na,1\nb,2\n")
    assert commands.main(["analyse", str(tmp_path / "s.csv")]) == 0
    printed = capsys.readouterr().out
    assert "No tuned model was scored together with its base" in printed
    assert "no model names its base" in printed


@pytest.mark.parametrize("options", [["--score", "x"], ["--where", "a=b"]])
def test_options_for_files_are_refused_for_folders(tmp_path, capsys, options):
    assert commands.main(["analyse", str(tmp_path), *options]) == 2
    assert "are for a file of scores" in capsys.readouterr().err
    assert commands.main(["analyse", str(tmp_path)]) == 2
    assert "no tables under" in capsys.readouterr().err
