"""Comparison of our scores with the paper's tables."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from harness.cli import commands
from harness.statistics import published, score_files


@pytest.fixture(scope="module")
def path(shared):
    return str(shared / "paper" / "scores.csv")


@pytest.fixture(scope="module")
def paper(path):
    return score_files.read(path)


def our_scores(folder, rows, header="model,dataset,protocol,r,mmlu"):
    (folder / "ours.csv").write_text("\n".join([header, *rows]))
    return score_files.read(str(folder / "ours.csv"))


def test_printed_figures_are_compared_with_the_papers_tables(paper, shared):
    figures = {figure.label.split(",")[0]: figure for figure in published.printed_figures(paper)}
    printed = json.loads((shared / "paper" / "statistics.json").read_text())
    for name, value in printed["tuning_gain_percent"]["printed"].items():
        what = "tuning gain" if name == "headline" else f"tuning gain on {name.removesuffix('_r')}"
        assert figures[what].printed == value
    differ = {figure.label for figure in figures.values() if not figure.agrees}
    assert differ == {
        "tuning gain on pereira2018, % (mean over 17 pairs)", "tuning gain on wehbe2014, % (mean over 17 pairs)",
        "tuning gain, headline, %", "r of average alignment and MMLU, 17 tuned",
        "r of average alignment and BBH, 17 tuned", "r of average alignment and next-word loss, 17 tuned",
        "mean MMLU accuracy, 17 tuned", "mean BBH accuracy, 17 tuned",
    }  # fmt: skip
    assert figures["average ceiling"].printed == printed["ceilings"]["average"]


def test_scores_are_joined_with_those_of_the_paper(paper, tmp_path):
    scores = our_scores(tmp_path, [
        "t5-small,pereira2018,paper,.2,.3", "t5-small,blank2014,paper,.2,.3", "t5-small,wehbe2014,paper,.2,.3",
        "t5-small,tuckute2024,paper,.9,.3", "t5-small,pereira2018,strict,.1,.3",
        "flan-t5-small,futrell2018-2016,paper,-.1,.4",
        "mine,pereira2018,paper,.3,.3",
    ])  # fmt: skip
    compared = published.compare_scores(scores, paper)
    rows = compared.set_index(["table", "model", "dataset", "protocol"])[["paper", "ours"]].round(3).T.to_dict("list")
    assert rows == {
        ("5", "t5-small", "pereira2018", "paper"): [0.166, 0.2], ("5", "t5-small", "pereira2018", "strict"): [0.166,
        0.1], ("5", "t5-small", "blank2014", "paper"): [0.168, 0.2], ("5", "t5-small", "wehbe2014", "paper"): [0.071,
        0.2], ("5", "t5-small", "average", "paper"): [0.135, 0.2],  # over the paper's three data sets only
        ("9", "flan-t5-small", "futrell2018-2016", "paper"): [0.054, 0.1],  # the paper drops the sign
        ("7", "flan-t5-small", "mmlu", ""): [0.294, 0.4],
    }  # fmt: skip
    assert compared["difference"].tolist() == pytest.approx((compared["ours"] - compared["paper"]).tolist())
    paper_only, ours_only = published.unmatched_models(scores, paper)
    assert ours_only == ["mine"]
    assert len(paper_only) == len(paper.models) - 2


def test_the_paper_compared_with_itself_has_no_differences(paper):
    rows = published.summary(published.compare_scores(paper, paper))
    assert rows["n_models"].tolist() == [33, 33, 33, 33, 33, 21, 21, 21]
    assert rows["largest_difference"].max() < 2e-3  # the tabulated average is of unrounded scores
    assert rows["r_over_models"].min() > 0.999


def test_the_command_prints_each_model_and_the_claims(path, capsys, tmp_path):
    our_scores(tmp_path, ["t5-small,pereira2018,paper,.2,.3"])
    assert commands.main(["compare", "paper", str(tmp_path / "ours.csv"), "--paper", path]) == 0
    printed = capsys.readouterr().out
    assert "t5-small  pereira2018  paper     0.166  0.200  0.034" in printed
    assert "Scored here, not in the paper: none." in printed
    assert "−0.54    0.545" in printed
    assert "- average accuracies of categories in Table 2" in printed
    assert commands.main(["compare", "paper", "--paper", path, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert len(document["claims"]) == 16
    assert document["models"] == []


def test_the_papers_tables_are_found_next_to_the_data(shared, monkeypatch, tmp_path, capsys):
    monkeypatch.delenv("HARNESS_SHARED", raising=False)
    assert published.find(None, str(shared / "data")) == str(shared / "paper" / "scores.csv")
    monkeypatch.delenv("HARNESS_DATA", raising=False)
    assert commands.main(["compare", "paper", "--data-root", str(tmp_path)]) == 2
    assert "Give --paper FILE" in capsys.readouterr().err


def test_the_command_reports_that_nothing_is_in_common(path, tmp_path, capsys):
    our_scores(tmp_path, ["mine,mine-data,paper,.2,.3"])
    assert commands.main(["compare", "paper", str(tmp_path / "ours.csv"), "--paper", path]) == 0
    assert "have no model and data set in common" in capsys.readouterr().out


def test_a_run_with_one_of_the_papers_data_sets_has_no_average(paper, tmp_path):
    scores = our_scores(tmp_path, ["t5-small,pereira2018,paper,.2,.3", "t5-small,tuckute2024,paper,.4,.3"])
    assert set(published.compare_scores(scores, paper)["dataset"]) == {"pereira2018"}
    assert isinstance(published.summary(published.compare_scores(scores, paper)), pd.DataFrame)


def test_a_file_without_the_papers_columns_is_refused(tmp_path, capsys):
    (tmp_path / "other.csv").write_text("model,base,pereira2018_r\na,,.1\nb,a,.2\n")
    assert commands.main(["compare", "paper", "--paper", str(tmp_path / "other.csv")]) == 2
    assert "has no blank2014, wehbe2014, average, mmlu, bbh, nwp_loss, n_parameters" in capsys.readouterr().err


def test_the_comparison_warns_that_the_t5_gain_confounds_lm_adaptation_with_tuning(path, capsys):
    (confound,) = published.confounds()
    assert confound.startswith("12 of the paper's 17 pairs compare Flan-T5, or a model tuned from it, with T5 1.1")
    assert "confounds 100,000 steps of LM adaptation with instruction tuning" in confound
    assert commands.main(["compare", "paper", "--paper", path]) == 0
    assert confound in capsys.readouterr().out
    assert commands.main(["compare", "paper", "--paper", path, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["confounds"] == [confound]


def test_p_values_of_behavioural_alignment_are_those_of_the_tables(path, paper):
    """Computed here with SciPy from the file itself."""
    tables = pd.read_csv(path)
    tuned = tables[(tables["in_paper_25"] == 1) & (tables["is_tuned"] == 1)]
    llama = tuned[tuned["family"] == "llama"]
    expected = {
        "MMLU, 17 tuned": stats.pearsonr(tuned["mmlu"], tuned["futrell2018_r"]).pvalue,
        "log10 size, 17 tuned": stats.pearsonr(np.log10(tuned["n_parameters"]), tuned["futrell2018_r"]).pvalue,
        "next-word loss, 5 tuned LLaMA": stats.pearsonr(llama["nwp_loss"], llama["futrell2018_r"]).pvalue,
    }
    figures = {figure.label: figure for figure in published.printed_figures(paper)}
    for name, p in expected.items():
        assert figures[f"p of behavioural alignment and {name}"].recomputed == pytest.approx(p)
    behaviour = [figure for label, figure in figures.items() if label.startswith("p of behavioural")]
    assert [figure.printed for figure in behaviour] == [0.76, 0.31, 0.54, 0.21]
    assert all(figure.agrees for figure in behaviour)


def _brain(model, dataset, r, **columns):
    row = {"model": model, "kind": "model", "dataset": dataset, "protocol": "paper", "target": "all", "r": r}
    return row | {"metric": "pearson_r", "ceiling": 0.5, "r_mad": 0.02} | columns


def test_appendix_j_is_compared_raw_and_normalised():
    brain = pd.DataFrame([
        _brain("gemma-2b", "pereira2018", 0.3), _brain("gemma-2b", "blank2014", 0.1, ceiling=0.3),
        _brain("gemma-2b-it", "pereira2018", 0.4), _brain("gemma-2b", "tuckute2024", 0.9),
        _brain("gpt2", "blank2014", 1),
    ])  # fmt: skip
    similar = pd.DataFrame([
        _brain("gemma-2b-it", "pereira2018", 0, metric="cka", value=0.6, subject=""),
        _brain("gemma-2b-it", "pereira2018", 0, metric="cka", value=0.9, subject="p1"),
    ])  # fmt: skip
    rows = published.compare_appendix_j(brain, similar).set_index(["model", "metric"])
    assert list(rows.index) == [("gemma-2b", "linear"), ("gemma-2b-it", "linear"), ("gemma-2b-it", "cka")]
    assert rows.loc[("gemma-2b", "linear"), ["paper", "ours", "normalised", "n_datasets"]].tolist() == [
        0.76,
        0.2,
        0.5,
        2,
    ]
    assert rows.loc[("gemma-2b-it", "cka"), ["paper", "ours", "normalised"]].tolist() == [2.44, 0.6, 1.2]
    assert published.compare_appendix_j(brain, similar.iloc[:0])["metric"].tolist() == ["linear", "linear"]


def test_error_bars_stand_beside_our_scores(paper, tmp_path):
    names = ("pereira2018", "blank2014", "wehbe2014")
    scores = our_scores(tmp_path, [f"t5-small,{name},paper,.2,.3" for name in names])
    mads = dict(zip(names, (0.1, 0.2, 0.6), strict=True))
    brain = pd.DataFrame([_brain("t5-small", name, 0.2, r_mad=mad) for name, mad in mads.items()])
    compared = published.with_error_bars(published.compare_scores(scores, paper), brain)
    bars = compared[compared["table"] == "5"].set_index("dataset")["ours_mad"].to_dict()
    assert bars == pytest.approx({"pereira2018": 0.1, "blank2014": 0.2, "wehbe2014": 0.6, "average": 0.3})
    assert compared[compared["table"] == "7"]["ours_mad"].isna().all()
