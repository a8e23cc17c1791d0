"""The table of models, a user's own beside it, and the `harness models` command."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace

import pytest

from harness import checkpoints, models, tiny
from harness.cli import main
from harness.models import MODELS, Entry


@pytest.fixture
def table(monkeypatch):
    """The table, given back as it was."""
    monkeypatch.setattr(models, "MODELS", made := dict(MODELS))
    monkeypatch.setattr(checkpoints, "MODELS", made)
    return made


def test_the_table_holds_the_papers_models(shared):
    with (shared / "paper" / "models.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    papers = [entry for entry in MODELS.values() if entry.group in {"paper", "gpt2"}]
    assert [row["model"] for row in rows] == [entry.name for entry in papers]
    for row, entry in zip(rows, papers, strict=True):
        assert (entry.family, entry.tuned_from, entry.n_blocks) == (
            row["family"], row["tuned_from"], int(row["n_layers"]),
        )  # fmt: skip
        assert (entry.n_parameters, entry.parameters_source) == (float(row["n_parameters_nominal"]), "paper")
        assert entry.delta_of or entry.hub_id in row["hub_id"]
    assert sum(entry.group == "paper" for entry in papers) == 25
    assert sum(bool(entry.tuned_from) for entry in papers if entry.group == "paper") == 17


def test_bases_are_there_and_are_no_tuned_models_of_another_family():
    for entry in MODELS.values():
        for base in filter(None, (entry.tuned_from, entry.delta_of)):
            assert MODELS[base].family == entry.family
            assert not MODELS[base].tuned_from
        assert entry.stack in models.STACKS
        assert (entry.stack == "encoder") == (entry.family in checkpoints.ENCODERS)


def test_a_repository_stands_once_and_a_size_has_a_source():
    hub_ids = [entry.hub_id.lower() for entry in MODELS.values()]
    assert len(set(hub_ids)) == len(hub_ids)
    assert all(re.fullmatch(r"[\w.-]+/[\w.-]+", hub_id) for hub_id in hub_ids)
    for entry in MODELS.values():
        assert bool(entry.n_parameters) == bool(entry.parameters_source)
        said = re.search(r"(?<![\w.])(\d+(?:\.\d+)?)(b|m)\b", entry.hub_id.lower().replace("1b1", "1.1b"))
        if entry.parameters_source == "name" and said and "olmo" not in entry.name:
            size = float(said[1]) * (1e9 if said[2] == "b" else 1e6)
            assert entry.n_parameters == pytest.approx(size, rel=0.5), entry.name


@pytest.mark.parametrize("pair", [
    ("gemma-2b", "gemma-2b-it"), ("gemma-7b", "gemma-7b-it"), ("llama-2-7b", "llama-2-7b-chat"),
    ("llama-2-13b", "llama-2-13b-chat"), ("llama-2-70b", "llama-2-70b-chat"), ("llama-3-70b", "llama-3-70b-instruct"),
    ("llama-3.1-70b", "llama-3.3-70b-instruct"), ("qwen2.5-72b", "qwen2.5-72b-instruct"),
    ("qwen3-14b-base", "qwen3-14b"), ("olmo-2-32b", "olmo-2-32b-instruct"),
])  # fmt: skip
def test_the_pairs_of_appendix_j_and_of_today_are_there(pair):
    assert MODELS[pair[1]].tuned_from == pair[0]


def test_deltas_name_their_base():
    assert {entry.name: entry.delta_of for entry in MODELS.values() if entry.delta_of} == {
        "alpaca-7b": "llama-7b", "stable-vicuna-13b": "llama-13b",
    }  # fmt: skip


def test_scale_is_100_models_of_60_million_to_70_billion():
    names = models.scale()
    assert len(set(names)) == 100
    assert sum(MODELS[name].n_parameters == 7e10 for name in names) >= 5
    assert len({MODELS[name].family for name in names}) >= 8


def test_pythia_has_154_checkpoints_and_others_are_asked_of_the_hub():
    found = models.steps(MODELS["pythia-70m"])
    assert (len(found), found[0], found[11], found[-1]) == (154, "step0", "step1000", "step143000")
    assert models.steps(MODELS["olmo-2-7b"]) is None
    with pytest.raises(ValueError, match="no training checkpoints of llama-7b are known"):
        models.steps(MODELS["llama-7b"])
    assert models.find("pythia-70m@step1000") == replace(MODELS["pythia-70m"], revision="step1000")
    assert models.find("nobody@step1000") is None


# --- a user's own -----------------------------------------------------------------------------------------------------


def test_models_of_a_users_own_in_toml_and_yaml_are_resolved_with_their_base(table, tmp_path):
    tiny.build("llama", tmp_path / "weights", ["some text to read"], 0)
    toml = tmp_path / "mine.toml"
    toml.write_text('["my-model"]\nfolder = "weights"\nfamily = "llama"\ntuned_from = "llama-7b"\n')
    assert models.extend(str(toml)) == ["my-model"]
    found = checkpoints.resolve("my-model")
    assert (found.name, found.tuned_from, found.pair_source) == ("my-model", "llama-7b", "table")
    assert found.revision.startswith("files-")
    yaml = tmp_path / "mine.yaml"
    yaml.write_text("other:\n  hub_id: someone/other\n  n_parameters: 7.0e+9\n  tuned_from: my-model\n  gated: true\n")
    assert models.extend(str(yaml)) == ["other"]
    assert table["other"] == Entry(
        "other", "someone/other", n_parameters=7e9, parameters_source="user", tuned_from="my-model", gated=True
    )


@pytest.mark.parametrize(("text", "said"), [
    ('[m]\nhub_id = "a/b"\nfamly = "llama"', "m: key 'famly' is unknown; the nearest are family"),
    ('[m]\nhub_id = "a/b"\nn_parameters = "7B"', "m: n_parameters must be float, and is '7B'"),
    ('[m]\nhub_id = "a/b"\ngated = 1', "m: gated must be bool"),
    ('[m]\nhub_id = "a/b"\ntuned_from = "lama-7b"', "'lama-7b' is not a model; the nearest are llama-7b"),
    ('[m]\nhub_id = "a/b"\nstack = "encdec"', "stack 'encdec' is none of"),
    ('[m]\nhub_id = "a/b"\nfolder = "c"', "one of the two"),
    ("[m]\n", "one of the two"),
    ("m = 3", "must hold names of models"),
    ("[m", "cannot be read"),
])  # fmt: skip
def test_what_is_wrong_with_a_file_of_models_is_named(table, tmp_path, text, said):
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(ValueError, match=re.escape(said)):
        models.extend(str(file))
    assert "m" not in table


def test_a_file_of_models_that_is_not_there_or_of_another_kind_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="is no file"):
        models.extend(str(tmp_path / "no.toml"))
    (tmp_path / "mine.ini").write_text("")
    with pytest.raises(ValueError, match=r"neither in \.toml nor in \.yaml"):
        models.extend(str(tmp_path / "mine.ini"))


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_lists_filters_and_shows_one(capsys):
    assert main(["models", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == list(MODELS)
    assert next(row for row in rows if row["name"] == "bert-base")["n_parameters"] is None
    assert main(["models", "--group", "appendix j"]) == 0
    out = capsys.readouterr().out
    assert "llama-2-13b-chat" in out
    assert "8 models" in out
    assert main(["models", "stable-vicuna-13b"]) == 0
    assert "CarperAI/stable-vicuna-13b-delta" in capsys.readouterr().out
    assert main(["models", "checkpoints", "pythia-70m", "--every", "50"]) == 0
    assert capsys.readouterr().out.split() == [
        "pythia-70m@step0", "pythia-70m@step40000", "pythia-70m@step90000", "pythia-70m@step140000",
    ]  # fmt: skip
    assert main(["models", "lama-7b"]) == 2
    assert "the nearest names are llama-7b" in capsys.readouterr().err
