"""Scores from the tables of a run and from anyone's file."""

import math

import pandas as pd
import pyarrow.parquet as pq
import pytest

from harness.statistics import score_files, scores
from harness.storage import tables

NAN = math.nan


def brain(r, dataset="synthetic", protocol="strict", target="all"):
    """Rows of model_scores: name -> r."""
    kinds = {name: "untrained" if ":" in name else "control" if name == "oasm" else "model" for name in r}
    columns = {"dataset": dataset, "protocol": protocol, "target": target, "metric": "pearson_r"}
    return pd.DataFrame([{"model": name, "kind": kinds[name], "r": value, **columns} for name, value in r.items()])


def reading(r, gains=None, dataset="futrell2018-2021"):
    rows = brain(r, dataset).drop(columns="target")
    return rows.assign(delta_ll=[(gains or {}).get(name, NAN) for name in rows["model"]])


def properties(tuned_from=None, sizes=None, families=None):
    """Each model, and its untrained twin, which is of the same size and from the same base."""
    pairs = tuned_from or {}
    return pd.DataFrame([
        {"model": name + twin, "kind": "untrained" if twin else "model", "tuned_from": pairs.get(name, ""),
         "family": (families or {}).get(name, "llama"), "n_parameters": size, "next_word_loss": None,
         "pair_source": "paper/models.csv" if name in pairs else ""}
        for name, size in (sizes or dict.fromkeys("abcde", 1e6)).items() for twin in ("", ":untrained")
    ])  # fmt: skip


NOTHING = tables.schema("reading_scores").empty_table().to_pandas()


def of(*parts, read=NOTHING, known=None):
    return scores.of_run("a test", pd.concat(parts), read, properties() if known is None else known)


def test_controls_and_twins_are_no_models():
    found = of(brain({"a": 0.2, "b": 0.3, "oasm": 0.9, "a:untrained": 0.1}))
    assert set(found.rows["model"]) == {"a", "b"}
    assert "oasm" not in found.models.index


def test_a_model_that_stands_twice_is_an_error_that_names_it():
    with pytest.raises(ValueError, match="a synthetic strict all"):
        of(brain({"a": 0.2}), brain({"a": 0.3}))


def test_the_average_is_over_brain_data_sets_of_models_that_have_them_all():
    found = of(
        brain({"a": 0.2, "b": 0.3}, "pereira2018"), brain({"a": 0.4, "b": NAN}, "blank2014"), read=reading({"a": 0.9}),
    ).rows  # fmt: skip
    average = found[found["dataset"] == "average"]
    assert average[["model", "score"]].to_numpy().tolist() == [["a", pytest.approx(0.3)]]


def test_one_data_set_has_no_average_and_protocols_are_averaged_apart():
    assert "average" not in set(of(brain({"a": 0.2})).rows["dataset"])
    found = of(*(brain({"a": r}, dataset, protocol) for dataset, protocol, r in (
        ("x", "strict", 0.1), ("y", "strict", 0.3), ("x", "paper", 0.5), ("y", "paper", 0.7)
    ))).rows  # fmt: skip
    average = found[found["dataset"] == "average"].set_index("protocol")["score"]
    assert average.to_dict() == pytest.approx({"strict": 0.2, "paper": 0.6})


def test_reading_times_give_r_and_where_measured_the_gain():
    found = of(brain({"a": 0.2}), read=reading({"a": 0.3, "b": 0.4}, {"a": 0.01})).rows
    read = found[found["target"] == "reading"]
    assert read[["model", "metric", "score"]].to_numpy().tolist() == [
        ["a", "pearson_r", 0.3], ["b", "pearson_r", 0.4], ["a", "delta_ll", 0.01],
    ]  # fmt: skip


def test_imported_benchmarks_become_properties_and_the_newest_counts():
    def row(category, value, created, task=""):
        return {
            "model": "a",
            "benchmark": "mmlu",
            "category": category,
            "task": task,
            "value": value,
            "created": created,
        }

    known = pd.DataFrame(
        [row("", 0.3, "1"), row("", 0.4, "2"), row("STEM", 0.5, "1"), row("STEM", 0.9, "1", "anatomy")]
    )
    found = scores.of_run("a test", brain({"a": 0.2, "b": 0.3}), NOTHING, properties(), known)
    assert found.properties == ("n_parameters", "mmlu", "mmlu STEM")
    assert found.models.loc["a", ["mmlu", "mmlu STEM"]].tolist() == [0.4, 0.5]
    assert math.isnan(found.models.loc["b", "mmlu"])


# --- files ------------------------------------------------------------------------------------------------------------

WIDE = """model,family,tuned_from,parameters,first_r,second_r,futrell2018_r,accuracy
a,x,,1e6,0.1,0.3,0.5,0.25
b,x,a,1e6,0.2,,0.6,0.5
"""


def write(folder, text, name="scores.csv"):
    (folder / name).write_text(text)
    return str(folder / name)


def test_a_file_with_a_row_per_model(tmp_path):
    found = score_files.read(write(tmp_path, WIDE))
    assert found.properties == ("n_parameters", "accuracy")
    assert found.models["base"].to_dict() == {"a": "", "b": "a"}
    rows = found.rows.set_index(["model", "dataset"])["score"]
    assert rows[("a", "average")] == pytest.approx(0.2)  # of the brain data sets, not of reading times
    assert ("b", "average") not in rows
    assert found.rows.set_index("dataset")["target"].to_dict()["futrell2018"] == "reading"


def test_a_file_with_a_row_per_score_and_person(tmp_path):
    text = "model\tdataset\tprotocol\tsubject\tr\tbase\n" + "".join(
        f"{model}\tx\tstrict\t{person}\t{r}\t{base}\n"
        for model, base, person, r in (
            ("a", "", "s1", 0.1),
            ("a", "", "s2", 0.3),
            ("b", "a", "s1", 0.2),
            ("b", "a", "s2", 0.6),
        )
    )
    found = score_files.read(write(tmp_path, text, "scores.tsv"))
    assert found.rows.set_index("model")["score"].to_dict() == pytest.approx({"a": 0.2, "b": 0.4})
    assert len(found.people) == 4
    assert found.properties == ()


def test_our_own_table_of_scores_can_be_read_as_a_file(tmp_path):
    frame = pd.concat([brain({"a": 0.1, "oasm": 0.5}), brain({"a": 0.2}, target="IFG")]).assign(n_neuroids=[60, 60, 30])
    frame.to_parquet(tmp_path / "model_scores.parquet")
    found = score_files.read(str(tmp_path / "model_scores.parquet"))
    assert found.rows[["model", "target", "score"]].to_numpy().tolist() == [["a", "all", 0.1], ["a", "IFG", 0.2]]
    assert found.properties == ()
    assert any("n_neuroids" in note for note in found.notes)


def test_models_beside_and_pairs_without_a_base_are_said(tmp_path):
    text = "model,base,is_tuned,in_paper_25,x_r\na,a,0,1,.1\nb,a,1,1,.2\nc,z,1,0,.3\n"
    found = score_files.read(write(tmp_path, text))
    assert found.models["is_main"].to_dict() == {"a": True, "b": True, "c": False}
    assert "in_paper_25 is 0 for c" in found.notes[0]
    assert "the base is not among the models: c (of z)." in found.notes[1]


def test_a_column_that_is_named_as_a_data_set_is_one_of_scores(tmp_path):
    found = score_files.read(write(tmp_path, "model,pereira2018,blank2014,futrell2018,mmlu\na,.1,.3,.5,.7\n"))
    assert found.properties == ("mmlu",)
    assert found.rows.set_index("dataset")["score"].to_dict() == pytest.approx(
        {"pereira2018": 0.1, "blank2014": 0.3, "futrell2018": 0.5, "average": 0.2}
    )


def test_a_tuned_model_of_an_unknown_base_is_tuned_all_the_same(tmp_path):
    found = score_files.read(write(tmp_path, "\ufeffModel,is_tuned,x_r\na,0,.1\nb,1,.2\nc,1,.3\n"))
    assert found.models["base"].to_dict() == {"a": "", "b": "unknown base of b", "c": "unknown base of c"}
    assert "the base is not among the models: b, c." in found.notes[0]


def test_rows_and_columns_can_be_chosen(tmp_path):
    path = write(tmp_path, "name,layer,brain,other\na,1,.1,3\na,2,.4,4\nb,2,.5,5\n")
    found = score_files.read(path, columns=["brain"], where=["layer=2"])
    assert found.rows["score"].tolist() == [0.4, 0.5]
    assert found.properties == ("layer", "other")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("system,x_r\na,.1\n", "no column `model`; it has system, x_r"),
        ("model,x\na,.1\n", "no column ends in _r or _score or names a data set"),
        ("model,x_r\na,.1\na,.2\n", "a stands twice"),
        ("model,x_r\na,high\n", r"scores\.csv, line 2, column 'x_r' \(model a\) is 'high'; write a finite number"),
        ("model,x_r\na,inf\n", r"line 2, column 'x_r' \(model a\) is 'inf'; write a finite number"),
        ("model,n_parameters,x_r\na,0,.1\n", "n_parameters of a is not above 0"),
        ("model,base,is_tuned,x_r\na,a,1,.1\n", "a is tuned and names itself as its base"),
        ("model,dataset,base,r\na,x,,.1\na,y,b,.2\na,z,c,.2\n", "base of a is 'b' and 'c'"),
        ("model,x_r\n", "no rows"),
    ],
)
def test_bad_files_are_refused_in_words(tmp_path, text, said):
    with pytest.raises(ValueError, match=said):
        score_files.read(write(tmp_path, text))


@pytest.mark.parametrize(
    ("where", "said"),
    [("famly=x", "there is no column famly; the nearest are family"), ("family", "wanted COLUMN=VALUE"),
     ("accuracy=high", "wanted a number"), ("family=zebra", "no rows where family=zebra")],
)  # fmt: skip
def test_bad_conditions_are_refused_in_words(tmp_path, where, said):
    with pytest.raises(ValueError, match=said):
        score_files.read(write(tmp_path, WIDE), where=[where])


def test_what_is_neither_file_nor_tables_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="neither a file of scores nor a folder"):
        score_files.read(str(tmp_path / "nothing.csv"))
    with pytest.raises(ValueError, match=r"wanted \.csv"):
        score_files.read(write(tmp_path, "x", "scores.xls"))


def neuroids(folder, model, rows):
    """neuroid_scores of one model: (layer, subject, roi, r) each."""
    empty = {"string": "", "double": NAN, "int64": 0, "bool": False}
    whole = [
        {name: empty[str(kind)] for name, kind in tables.SCHEMAS["neuroid_scores"].items()}
        | {"protocol": "strict", "stack": "decoder", "layer": layer, "subject": subject, "roi": roi, "r": r}
        for layer, subject, roi, r in rows
    ]
    place = folder / "tables" / "neuroid_scores" / "run=run-1" / "dataset=synthetic" / f"model={model}"
    place.mkdir(parents=True)
    content = tables.rows_to_arrow("neuroid_scores", whole).drop_columns(["run", "dataset", "model"])
    pq.write_table(content, place / "part-0.parquet")


def test_single_people_are_read_at_the_layer_that_was_chosen(tmp_path):
    for model, shift in (("a", 0.0), ("b", 0.1), ("oasm", 0.5)):
        neuroids(tmp_path, model, [
            (1, "s1", "IFG", 0.9), (2, "s1", "IFG", 0.1 + shift), (2, "s1", "MFG", 0.3 + shift), (2, "s1", "AngG", 0.2),
            (2, "s2", "IFG", 0.4 + shift), (2, "group", "group IFG", 0.8),
        ])  # fmt: skip
    chosen = brain({"a": 0.2, "b": 0.3, "oasm": 0.1}).assign(stack="decoder", layer=2, n_neuroids=5)
    found = scores.people_of(str(tmp_path), "run-1", chosen).set_index(["model", "subject"])["score"]
    assert found.to_dict() == pytest.approx({("a", "s1"): 0.2, ("a", "s2"): 0.4, ("b", "s1"): 0.2, ("b", "s2"): 0.5})


def test_people_are_left_unread_where_they_are_too_many(tmp_path):
    chosen = brain({"a": 0.2}).assign(stack="decoder", layer=2, n_neuroids=scores.MOST_NEUROIDS + 1)
    assert scores.people_of(str(tmp_path), "run-1", chosen).empty
