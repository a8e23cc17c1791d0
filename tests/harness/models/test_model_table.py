"""The model table, user-defined models, and the `harness models` command."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace

import pytest

from harness.checkpoints import checkpoints, hub
from harness.cli.commands import main
from harness.models import model_table as models
from harness.models import tiny
from harness.models.model_table import MODELS, Entry


@pytest.fixture
def table(monkeypatch):
    """A copy of the table, so that changes are undone."""
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


ENTRIES = list(MODELS.values())


def test_names_are_unique_and_safe_in_paths_with_a_revision():
    with models._TABLE.open(encoding="utf-8", newline="") as stream:
        names = [row["name"] for row in csv.DictReader(stream)]
    assert names == list(MODELS)
    assert all(re.fullmatch(r"[a-z0-9]+([.-][a-z0-9]+)*", name) for name in names)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_a_chain_of_stages_ends_in_a_base_of_the_same_family(entry):
    stages = [MODELS[name] for name in models.chain(entry)]
    assert {stage.family for stage in stages} <= {entry.family}
    assert len({entry.name, *models.chain(entry)}) == len(stages) + 1
    if stages:
        assert not stages[0].tuned_from
        assert stages[0].stage in {"base", "instruct"}  # no base of Qwen3-235B-A22B is published
        assert "base" not in {entry.stage, *(stage.stage for stage in stages[1:])}
    for base in filter(None, (entry.trained_from, entry.delta_of)):
        assert MODELS[base].family == entry.family
    assert entry.name not in models.ancestors(entry.name)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_a_row_has_valid_values(entry):
    assert entry.stack in models.STACKS
    assert entry.stage in models.STAGES
    forms = set(entry.weights.split("+")) - {""}
    assert forms <= set(models.WEIGHTS)
    assert ("delta" in forms) == bool(entry.delta_of)
    assert entry.parameters_source in {"paper", "name", "publisher", ""}
    assert bool(entry.n_parameters) == bool(entry.parameters_source)
    assert entry.n_active_parameters < entry.n_parameters or not entry.n_active_parameters
    assert entry.group in {"paper", "gpt2", "appendix J", "current", "lm-adapted", "polypythia", "encoders"}
    assert entry.gated in {True, False, None}
    assert re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", entry.hub_id)
    hub.require_revision(entry.revision)


def test_families_and_stacks_match_transformers():
    from transformers.models.auto import modeling_auto
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    causal = {
        **modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        **modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    }
    classes = {
        "decoder": causal, "encoder": modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        "encoder-decoder": modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    }  # fmt: skip
    for entry in ENTRIES:
        assert entry.family in CONFIG_MAPPING_NAMES, entry.name
        assert entry.family in classes[entry.stack], entry.name


def test_a_revision_of_a_repository_occurs_once():
    places = [(entry.hub_id.lower(), entry.revision) for entry in ENTRIES]
    assert len(set(places)) == len(places)


def _sizes(hub_id):
    """Return (total, active) sizes stated in a repository's name; 0 if not stated."""
    name = hub_id.rpartition("/")[2].lower()
    name = re.sub(r"(\d)b(\d)\b", r"\1.\2b", name)  # BLOOM's 1b1
    unit = {"b": 1e9, "m": 1e6}
    active = [float(size) * unit[u] for size, u in re.findall(r"(?<![a-z0-9])a(\d+(?:\.\d+)?)(b|m)(?![a-z0-9])", name)]
    total = [float(size) * unit[u] for size, u in re.findall(r"(?<![a-z0-9.])(\d+(?:\.\d+)?)(b|m)(?![a-z0-9])", name)]
    if "olmoe" in name:  # OLMoE-1B-7B: active, total
        active, total = total[:1], total[1:]
    return max(total, default=0), max(active, default=0)


@pytest.mark.parametrize("entry", [e for e in ENTRIES if e.parameters_source == "name"], ids=lambda entry: entry.name)
def test_a_size_taken_from_the_name_matches_the_name(entry):
    total, active = _sizes(entry.hub_id)
    assert entry.n_parameters == total
    if active:
        assert entry.n_active_parameters == active


def test_other_sizes_are_the_publishers():
    by_name = {entry.name: entry.n_parameters for entry in ENTRIES if entry.parameters_source == "publisher"}
    assert by_name["t5-base-lm-adapt"] == 2.5e8
    assert (by_name["llama-4-scout"], MODELS["llama-4-scout"].n_active_parameters) == (1.09e11, 1.7e10)
    assert (by_name["mixtral-8x7b-v0.1"], MODELS["mixtral-8x7b-v0.1"].n_active_parameters) == (4.67e10, 1.29e10)
    assert (by_name["deepseek-v3"], MODELS["deepseek-v3"].n_active_parameters) == (6.71e11, 3.7e10)


def test_pickle_only_models_are_marked():
    by_name = {entry.name for entry in ENTRIES if "pickle" in entry.weights.split("+")}
    assert by_name == {
        "t5-small", "t5-base", "t5-large", "t5-xl", "t5-xxl", "vicuna-7b", "vicuna-13b", "vicuna-33b", "flan-alpaca-xl",
        "flan-sharegpt-xl", "flan-gpt4all-xl", "alpaca-7b",
    }  # fmt: skip
    assert MODELS["alpaca-7b"].weights == "delta+pickle"


@pytest.mark.parametrize("size", ["small", "base", "large", "xl", "xxl"])
def test_flan_t5_names_the_papers_base_and_the_checkpoint_it_was_trained_from(size):
    flan, adapted = MODELS[f"flan-t5-{size}"], MODELS[f"t5-{size}-lm-adapt"]
    assert (flan.tuned_from, flan.trained_from) == (f"t5-{size}", adapted.name)
    assert (adapted.tuned_from, adapted.trained_from, adapted.stage) == ("", f"t5-{size}", "LM-adapted")
    assert models.ancestors(flan.name) == [f"t5-{size}", adapted.name]


def test_chain_lists_stages_in_training_order():
    assert models.chain(MODELS["olmo-2-1b-instruct"]) == [
        "olmo-2-1b", "olmo-2-1b-sft", "olmo-2-1b-dpo", "olmo-2-1b-rlvr1",
    ]  # fmt: skip
    assert models.chain(MODELS["olmo-3-32b-think"]) == ["olmo-3-32b", "olmo-3-32b-think-sft", "olmo-3-32b-think-dpo"]
    assert models.chain(MODELS["smollm3-3b"]) == [
        "smollm3-3b-base", "smollm3-3b-mid", "smollm3-3b-sft", "smollm3-3b-apo",
    ]  # fmt: skip
    assert models.chain(MODELS["llama-7b"]) == []
    assert models.ancestors("allenai/OLMo-2-1124-7B-DPO@main") == []  # neither a table name nor a repository
    assert models.ancestors("allenai/OLMo-2-1124-7B-DPO") == ["olmo-2-7b-sft", "olmo-2-7b"]


@pytest.mark.parametrize("family", [
    "mixtral", "olmoe", "qwen2_moe", "qwen3_moe", "qwen3_5_moe", "deepseek_v2", "deepseek_v3", "gpt_oss", "llama4",
    "granitemoe",
])  # fmt: skip
def test_mixtures_of_experts_are_in_the_table(family):
    assert any(entry.family == family for entry in ENTRIES)


@pytest.mark.parametrize("pair", [
    ("gemma-2b", "gemma-2b-it"), ("gemma-7b", "gemma-7b-it"), ("llama-2-7b", "llama-2-7b-chat"),
    ("llama-2-13b", "llama-2-13b-chat"), ("llama-2-70b", "llama-2-70b-chat"), ("llama-3-70b", "llama-3-70b-instruct"),
    ("llama-3.1-70b", "llama-3.3-70b-instruct"), ("qwen2.5-72b", "qwen2.5-72b-instruct"),
    ("qwen3-14b-base", "qwen3-14b"), ("olmo-2-32b", "olmo-2-32b-instruct"), ("olmo-3-7b", "olmo-3-7b-think"),
    ("olmo-3-7b", "olmo-3-7b-instruct"), ("qwen3.5-9b-base", "qwen3.5-9b"), ("qwen3-30b-a3b-base", "qwen3-30b-a3b"),
    ("gemma-3-27b", "gemma-3-27b-it"), ("gemma-4-12b", "gemma-4-12b-it"), ("smollm3-3b-base", "smollm3-3b"),
    ("ministral-3-8b", "ministral-3-8b-reasoning"), ("apertus-70b", "apertus-70b-instruct"),
    ("llama-4-scout", "llama-4-scout-instruct"), ("mixtral-8x7b-v0.1", "mixtral-8x7b-instruct-v0.1"),
    ("olmoe-1b-7b-0125", "olmoe-1b-7b-0125-instruct"),
])  # fmt: skip
def test_pairs_of_appendix_j_and_current_pairs_are_in_the_table(pair):
    assert models.chain(MODELS[pair[1]])[0] == pair[0]


def test_deltas_name_their_base():
    assert {entry.name: entry.delta_of for entry in MODELS.values() if entry.delta_of} == {
        "alpaca-7b": "llama-7b", "stable-vicuna-13b": "llama-13b",
    }  # fmt: skip


def test_smollm3_has_the_checkpoints_of_three_stages_of_pretraining_and_no_model_on_main():
    entry = MODELS["smollm3-3b-checkpoints"]
    revisions = models.steps(entry)
    assert (len(revisions), revisions[0], revisions[85], revisions[86]) == (
        86 + 19 + 13, "stage1-step-40000", "stage1-step-3440000", "stage2-step-3480000",
    )  # fmt: skip
    assert entry.revision == revisions[-1] == "stage3-step-4720000"


def test_scale_is_100_models_of_60_million_to_70_billion():
    names = models.scale()
    assert len(set(names)) == 100
    assert sum(MODELS[name].n_parameters == 7e10 for name in names) >= 5
    assert len({MODELS[name].family for name in names}) >= 8


def test_pythia_and_its_seeds_have_154_checkpoints_and_other_runs_are_listed_by_the_hub():
    for name in ("pythia-70m", "pythia-14m", "pythia-410m-seed9"):
        revisions = models.steps(MODELS[name])
        assert (len(revisions), revisions[0], revisions[11], revisions[-1]) == (154, "step0", "step1000", "step143000")
    seeds = [entry for entry in ENTRIES if re.search(r"-seed\d$", entry.name)]
    assert len(seeds) == len({entry.hub_id for entry in seeds}) == 45
    assert models.steps(MODELS["olmo-2-7b"]) is None
    with pytest.raises(ValueError, match="no training checkpoints of llama-7b are known"):
        models.steps(MODELS["llama-7b"])
    assert models.find("pythia-70m@step1000") == replace(MODELS["pythia-70m"], revision="step1000")
    assert models.find("nobody@step1000") is None


# --- user-defined models ----------------------------------------------------------------------------------------------


def test_user_models_in_toml_and_yaml_are_resolved_with_their_base(table, tmp_path):
    tiny.build("llama", tmp_path / "weights", ["some text to read"], 0)
    toml = tmp_path / "mine.toml"
    toml.write_text('["my-model"]\nfolder = "weights"\nfamily = "llama"\ntuned_from = "llama-7b"\n')
    assert models.extend(str(toml)) == ["my-model"]
    checkpoint = checkpoints.resolve("my-model")
    assert (checkpoint.name, checkpoint.tuned_from, checkpoint.pair_source) == ("my-model", "llama-7b", "table")
    assert checkpoint.revision.startswith("files-")
    yaml = tmp_path / "mine.yaml"
    yaml.write_text("other:\n  hub_id: someone/other\n  n_parameters: 7.0e+9\n  tuned_from: my-model\n  gated: true\n")
    assert models.extend(str(yaml)) == ["other"]
    assert table["other"] == Entry(
        "other", "someone/other", n_parameters=7e9, parameters_source="user", tuned_from="my-model", gated=True
    )


@pytest.mark.parametrize(("text", "message"), [
    ('[m]\nhub_id = "a/b"\nfamly = "llama"', "m: key 'famly' is unknown; the nearest are family"),
    ('[m]\nhub_id = "a/b"\nn_parameters = "7B"', "m: n_parameters must be float, and is '7B'"),
    ('[m]\nhub_id = "a/b"\ngated = 1', "m: gated must be bool"),
    ('[m]\nhub_id = "a/b"\ntuned_from = "lama-7b"', "'lama-7b' is not a model; the nearest are llama-7b"),
    ('[m]\nhub_id = "a/b"\nstack = "encdec"', "stack 'encdec' is none of"),
    ('[m]\nhub_id = "a/b"\nstage = "RLHF"', "stage 'RLHF' is none of base, LM-adapted"),
    ('[m]\nhub_id = "a/b"\nweights = "bin"', "weights 'bin' are none of safetensors, pickle"),
    ('[m]\nhub_id = "a/b"\ntrained_from = "t5-bas"', "trained_from 't5-bas' is not a model; the nearest are t5-base"),
    ('[m]\nhub_id = "a/b"\nn_active_parameters = true', "n_active_parameters must be float, and is True"),
    ('[m]\nhub_id = "a/b"\nfolder = "c"', "give either hub_id or folder"),
    ("[m]\n", "give either hub_id or folder"),
    ("m = 3", "must hold names of models"),
    ("[m", "cannot be read"),
])  # fmt: skip
def test_error_for_a_file_of_models_says_what_is_wrong(table, tmp_path, text, message):
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(ValueError, match=re.escape(message)):
        models.extend(str(file))
    assert "m" not in table


def test_a_missing_file_of_models_or_one_of_another_type_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="is no file"):
        models.extend(str(tmp_path / "no.toml"))
    (tmp_path / "mine.ini").write_text("")
    with pytest.raises(ValueError, match=r"neither in \.toml nor in \.yaml"):
        models.extend(str(tmp_path / "mine.ini"))


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_lists_filters_and_shows_models(capsys):
    assert main(["models", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == list(MODELS)
    by_name = {row["name"]: row for row in rows}
    assert by_name["bert-base"]["n_parameters"] is None
    gated = {name: by_name[name]["gated"] for name in ("llama-2-7b", "gpt2-small", "gpt-oss-20b")}
    assert gated == {"llama-2-7b": True, "gpt2-small": False, "gpt-oss-20b": None}
    assert main(["models", "--group", "appendix j"]) == 0
    out = capsys.readouterr().out
    assert "llama-2-13b-chat" in out
    assert "8 models" in out
    assert main(["models", "--weights", "pickle", "--group", "paper"]) == 0
    assert re.search(r"^alpaca-7b .* delta\+pickle ", out := capsys.readouterr().out, re.MULTILINE)
    assert "12 models" in out
    assert main(["models", "--stage", "sft", "--family", "olmo3"]) == 0
    assert re.search(
        r"^olmo-3-7b-instruct-sft .* SFT .* olmo-3-7b > olmo-3-7b-think-sft ", capsys.readouterr().out, re.MULTILINE
    )
    assert main(["models", "olmo-2-7b-instruct", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["chain"] == ["olmo-2-7b", "olmo-2-7b-sft", "olmo-2-7b-dpo"]
    assert main(["models", "stable-vicuna-13b"]) == 0
    assert "CarperAI/stable-vicuna-13b-delta" in capsys.readouterr().out
    assert main(["models", "checkpoints", "pythia-70m", "--every", "50"]) == 0
    assert capsys.readouterr().out.split() == [
        "pythia-70m@step0", "pythia-70m@step40000", "pythia-70m@step90000", "pythia-70m@step140000",
    ]  # fmt: skip
    assert main(["models", "lama-7b"]) == 2
    assert "the nearest names are llama-7b" in capsys.readouterr().err
