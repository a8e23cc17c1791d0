"""Scores from the tables of a run and from a user's file."""

import math

import pandas as pd
import pyarrow.parquet as pq
import pytest

from harness.statistics import score_files, scores, tuning
from harness.storage import tables

NAN = math.nan


def brain(r, dataset="synthetic", protocol="strict", target="all"):
    """Rows of model_scores: name -> r."""
    kinds = {name: "untrained" if ":" in name else "control" if name == "oasm" else "model" for name in r}
    columns = {"dataset": dataset, "protocol": protocol, "target": target, "metric": "pearson_r"}
    return pd.DataFrame([{"model": name, "kind": kinds[name], "r": value, **columns} for name, value in r.items()])


def reading(r, gains=None, dataset="futrell2018-2021"):
    """Rows of reading_scores; gains: name -> delta_ll."""
    rows = brain(r, dataset).drop(columns="target")
    return rows.assign(delta_ll=[(gains or {}).get(name, NAN) for name in rows["model"]])


def properties(tuned_from=None, sizes=None, families=None):
    """Rows of model_properties: each model and its untrained control, which has the same size and base."""
    pairs = tuned_from or {}
    return pd.DataFrame([
        {"model": name + suffix, "kind": "untrained" if suffix else "model", "tuned_from": pairs.get(name, ""),
         "family": (families or {}).get(name, "llama"), "n_parameters": size, "next_word_loss": None,
         "pair_source": "paper/models.csv" if name in pairs else ""}
        for name, size in (sizes or dict.fromkeys("abcde", 1e6)).items() for suffix in ("", ":untrained")
    ])  # fmt: skip


NO_READING = tables.schema("reading_scores").empty_table().to_pandas()


def make_scores(*brain_rows, reading_rows=NO_READING):
    return scores.of_run("a test", pd.concat(brain_rows), reading_rows, properties())


def test_controls_are_not_models():
    result = make_scores(brain({"a": 0.2, "b": 0.3, "oasm": 0.9, "a:untrained": 0.1}))
    assert set(result.rows["model"]) == {"a", "b"}
    assert "oasm" not in result.models.index


def test_a_duplicate_score_is_an_error_that_names_it():
    with pytest.raises(ValueError, match="a synthetic strict all"):
        make_scores(brain({"a": 0.2}), brain({"a": 0.3}))


def test_the_average_covers_brain_data_sets_of_models_scored_on_all_of_them():
    result = make_scores(
        brain({"a": 0.2, "b": 0.3}, "pereira2018"),
        brain({"a": 0.4, "b": NAN}, "blank2014"),
        reading_rows=reading({"a": 0.9}),
    ).rows
    average = result[result["dataset"] == "average"]
    assert average[["model", "score"]].to_numpy().tolist() == [["a", pytest.approx(0.3)]]


def test_one_data_set_has_no_average_and_protocols_are_averaged_separately():
    assert "average" not in set(make_scores(brain({"a": 0.2})).rows["dataset"])
    result = make_scores(*(brain({"a": r}, dataset, protocol) for dataset, protocol, r in (
        ("x", "strict", 0.1), ("y", "strict", 0.3), ("x", "paper", 0.5), ("y", "paper", 0.7)
    ))).rows  # fmt: skip
    average = result[result["dataset"] == "average"].set_index("protocol")["score"]
    assert average.to_dict() == pytest.approx({"strict": 0.2, "paper": 0.6})


def test_reading_times_give_r_and_the_measured_gain_in_likelihood():
    result = make_scores(brain({"a": 0.2}), reading_rows=reading({"a": 0.3, "b": 0.4}, {"a": 0.01})).rows
    rows = result[result["target"] == "reading"]
    assert rows[["model", "metric", "score"]].to_numpy().tolist() == [
        ["a", "pearson_r", 0.3], ["b", "pearson_r", 0.4], ["a", "delta_ll", 0.01],
    ]  # fmt: skip


def test_imported_benchmarks_become_properties_and_the_newest_value_is_used():
    def row(category, value, created, task=""):
        return {
            "model": "a",
            "benchmark": "mmlu",
            "category": category,
            "task": task,
            "value": value,
            "created": created,
        }

    benchmarks = pd.DataFrame(
        [row("", 0.3, "1"), row("", 0.4, "2"), row("STEM", 0.5, "1"), row("STEM", 0.9, "1", "anatomy")]
    )
    result = scores.of_run("a test", brain({"a": 0.2, "b": 0.3}), NO_READING, properties(), benchmarks)
    assert result.properties == ("n_parameters", "mmlu", "mmlu STEM")
    assert result.models.loc["a", ["mmlu", "mmlu STEM"]].tolist() == [0.4, 0.5]
    assert math.isnan(result.models.loc["b", "mmlu"])


# --- files ------------------------------------------------------------------------------------------------------------

WIDE = """model,family,tuned_from,parameters,first_r,second_r,futrell2018_r,accuracy
a,x,,1e6,0.1,0.3,0.5,0.25
b,x,a,1e6,0.2,,0.6,0.5
"""


def write(folder, text, name="scores.csv"):
    (folder / name).write_text(text)
    return str(folder / name)


def test_a_file_with_one_row_per_model(tmp_path):
    result = score_files.read(write(tmp_path, WIDE))
    assert result.properties == ("n_parameters", "accuracy")
    assert result.models["base"].to_dict() == {"a": "", "b": "a"}
    rows = result.rows.set_index(["model", "dataset"])["score"]
    assert rows[("a", "average")] == pytest.approx(0.2)  # over the brain data sets, without reading times
    assert ("b", "average") not in rows
    assert result.rows.set_index("dataset")["target"].to_dict()["futrell2018"] == "reading"


def test_a_file_with_one_row_per_score_and_subject(tmp_path):
    text = "model\tdataset\tprotocol\tsubject\tr\tbase\n" + "".join(
        f"{model}\tx\tstrict\t{subject}\t{r}\t{base}\n"
        for model, base, subject, r in (
            ("a", "", "s1", 0.1),
            ("a", "", "s2", 0.3),
            ("b", "a", "s1", 0.2),
            ("b", "a", "s2", 0.6),
        )
    )
    result = score_files.read(write(tmp_path, text, "scores.tsv"))
    assert result.rows.set_index("model")["score"].to_dict() == pytest.approx({"a": 0.2, "b": 0.4})
    assert len(result.by_subject) == 4
    assert result.properties == ()


def test_the_table_model_scores_can_be_read_as_a_file(tmp_path):
    frame = pd.concat([brain({"a": 0.1, "oasm": 0.5}), brain({"a": 0.2}, target="IFG")]).assign(n_neuroids=[60, 60, 30])
    frame.to_parquet(tmp_path / "model_scores.parquet")
    result = score_files.read(str(tmp_path / "model_scores.parquet"))
    assert result.rows[["model", "target", "score"]].to_numpy().tolist() == [["a", "all", 0.1], ["a", "IFG", 0.2]]
    assert result.properties == ()
    assert any("n_neuroids" in note for note in result.notes)


def test_excluded_models_and_missing_bases_are_noted(tmp_path):
    text = "model,base,is_tuned,in_paper_25,x_r\na,a,0,1,.1\nb,a,1,1,.2\nc,z,1,0,.3\n"
    result = score_files.read(write(tmp_path, text))
    assert result.models["is_main"].to_dict() == {"a": True, "b": True, "c": False}
    assert "in_paper_25 is 0 for c" in result.notes[0]
    assert "tuned models without a row for their base: c (tuned from z)." in result.notes[1]


def test_a_column_named_like_a_data_set_holds_scores(tmp_path):
    result = score_files.read(write(tmp_path, "model,pereira2018,blank2014,futrell2018,mmlu\na,.1,.3,.5,.7\n"))
    assert result.properties == ("mmlu",)
    assert result.rows.set_index("dataset")["score"].to_dict() == pytest.approx(
        {"pereira2018": 0.1, "blank2014": 0.3, "futrell2018": 0.5, "average": 0.2}
    )


def test_a_tuned_model_with_unknown_base_still_counts_as_tuned(tmp_path):
    result = score_files.read(write(tmp_path, "\ufeffModel,is_tuned,x_r\na,0,.1\nb,1,.2\nc,1,.3\n"))
    assert result.models["base"].to_dict() == {"a": "", "b": "unknown base of b", "c": "unknown base of c"}
    assert "tuned models without a row for their base: b, c." in result.notes[0]


def test_rows_and_columns_can_be_selected(tmp_path):
    path = write(tmp_path, "name,layer,brain,other\na,1,.1,3\na,2,.4,4\nb,2,.5,5\n")
    result = score_files.read(path, columns=["brain"], where=["layer=2"])
    assert result.rows["score"].tolist() == [0.4, 0.5]
    assert result.properties == ("layer", "other")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("system,x_r\na,.1\n", "no column `model`; it has system, x_r"),
        ("model,x\na,.1\n", "no column name ends in _r or _score or is that of a data set"),
        ("model,x_r\na,.1\na,.2\n", "model a has more than one row"),
        ("model,x_r\na,high\n", r"scores\.csv, line 2, column 'x_r' \(model a\) is 'high'; write a finite number"),
        ("model,x_r\na,inf\n", r"line 2, column 'x_r' \(model a\) is 'inf'; write a finite number"),
        ("model,n_parameters,x_r\na,0,.1\n", "n_parameters of a is not positive"),
        ("model,base,is_tuned,x_r\na,a,1,.1\n", "a is tuned and names itself as its base"),
        ("model,dataset,base,r\na,x,,.1\na,y,b,.2\na,z,c,.2\n", "base of a is both 'b' and 'c'"),
        ("model,x_r\n", "no rows"),
    ],
)
def test_malformed_files_are_refused(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        score_files.read(write(tmp_path, text))


@pytest.mark.parametrize(
    ("where", "message"),
    [("famly=x", "there is no column famly; the nearest are family"), ("family", "wanted COLUMN=VALUE"),
     ("accuracy=high", "wanted a number"), ("family=zebra", "no rows where family=zebra")],
)  # fmt: skip
def test_malformed_conditions_are_refused(tmp_path, where, message):
    with pytest.raises(ValueError, match=message):
        score_files.read(write(tmp_path, WIDE), where=[where])


def test_a_missing_file_or_unknown_file_type_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="neither a file of scores nor a folder"):
        score_files.read(str(tmp_path / "nothing.csv"))
    with pytest.raises(ValueError, match=r"wanted \.csv"):
        score_files.read(write(tmp_path, "x", "scores.xls"))


def neuroids(folder, model, rows):
    """Write neuroid_scores of one model; rows: (layer, subject, roi, r)."""
    defaults = {"string": "", "double": NAN, "int64": 0, "bool": False}
    full_rows = [
        {name: defaults[str(kind)] for name, kind in tables.SCHEMAS["neuroid_scores"].items()}
        | {"protocol": "strict", "stack": "decoder", "layer": layer, "subject": subject, "roi": roi, "r": r}
        for layer, subject, roi, r in rows
    ]
    partition = folder / "tables" / "neuroid_scores" / "run=run-1" / "dataset=synthetic" / f"model={model}"
    partition.mkdir(parents=True)
    content = tables.rows_to_arrow("neuroid_scores", full_rows).drop_columns(["run", "dataset", "model"])
    pq.write_table(content, partition / "part-0.parquet")


def test_scores_of_subjects_are_taken_at_the_chosen_layer(tmp_path):
    for model, shift in (("a", 0.0), ("b", 0.1), ("oasm", 0.5)):
        neuroids(tmp_path, model, [
            (1, "s1", "IFG", 0.9), (2, "s1", "IFG", 0.1 + shift), (2, "s1", "MFG", 0.3 + shift), (2, "s1", "AngG", 0.2),
            (2, "s2", "IFG", 0.4 + shift), (2, "group", "group IFG", 0.8),
        ])  # fmt: skip
    chosen = brain({"a": 0.2, "b": 0.3, "oasm": 0.1}).assign(stack="decoder", layer=2, n_neuroids=5)
    result = scores.subject_scores(str(tmp_path), "run-1", chosen).set_index(["model", "subject"])["score"]
    assert result.to_dict() == pytest.approx({("a", "s1"): 0.2, ("a", "s2"): 0.4, ("b", "s1"): 0.2, ("b", "s2"): 0.5})


def test_scores_of_subjects_are_not_loaded_for_too_many_neuroids(tmp_path):
    chosen = brain({"a": 0.2}).assign(stack="decoder", layer=2, n_neuroids=scores.MOST_NEUROIDS + 1)
    assert scores.subject_scores(str(tmp_path), "run-1", chosen).empty


def test_pairs_are_compared_by_rsa_and_cka_too():
    """Of all subjects together; controls and single subjects are left out."""
    of_run = scores.of_run("run", brain({"a": 0.2, "b": 0.3}), NO_READING, properties({"b": "a"}))
    whole = brain({"a": 0.1, "b": 0.4, "oasm": 0.9}).assign(metric="cka", subject="", value_low=0.05)
    similar = pd.concat([whole, whole.assign(subject="s1", r=0.8)]).rename(columns={"r": "value"})
    (pair,) = tuning.pairs(scores.of_similarities(of_run, similar)).to_dict("records")
    assert (pair["base"], pair["tuned"], pair["metric"]) == ("a", "b", "cka")
    assert (pair["difference"], pair["gain_percent"]) == pytest.approx((0.3, 300))
    empty = tables.schema("similarity_scores").empty_table().to_pandas()
    assert tuning.pairs(scores.of_similarities(of_run, empty)).empty
