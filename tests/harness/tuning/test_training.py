"""Trainings in this process: losses, checkpoints, and the same end after an interruption."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from harness.checkpoints import checkpoints, pairs, training_records
from harness.loading import architectures, loaded_model
from harness.models import tiny
from harness.runs import provenance
from harness.tuning import losses, recipe, trainer, training
from harness.tuning.recipe import Lora
from harness.units.feature_units import FeatureSource
from harness.watching import sources
from tests.harness.tuning.conftest import RECIPE, corpus_of, train_all

PROMPTS = ["Below is an instruction that describes a task.", "Write a response that appropriately completes it."]
LORA = dataclasses.replace(RECIPE, lora=Lora(rank=4, dropout=0.1), lr=1e-2)


def files_of(folder):
    """Contents of all files below a folder, by path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_losses_fall_and_both_arms_see_the_same_examples(make_job, tokenizer):
    job = make_job(dataclasses.replace(RECIPE, epochs=6), arms=("with instructions", "without instructions"))
    train_all(job, tokenizer)
    rows = {row.arm: losses.read(job.folder_of(row)) for row in job.trainings}
    for lines in rows.values():
        assert [line["step"] for line in lines] == list(range(1, 13))
        assert lines[-1]["loss"] < 0.7 * lines[0]["loss"]
        assert lines[-1]["held_out_loss"] < lines[5]["held_out_loss"]
    counts = [[line["response_tokens"] for line in lines] for lines in rows.values()]
    assert counts[0] == counts[1]
    assert job.unfinished == []


def test_the_first_loss_is_the_mean_over_the_tokens_of_the_batch(make_job, tokenizer, stories):
    """Against transformers' own loss of each example, weighted by its response tokens."""
    job = make_job()
    train_all(job, tokenizer)
    tokenized = corpus_of(job, tokenizer).by_arm["with instructions"]
    trained, _ = recipe.split(len(tokenized), RECIPE.held_out)
    batch = [tokenized[trained[place]] for place in recipe.batch_of(0, 6, len(trained), seed=0)]
    model = loaded_model.load(stories).model
    with torch.no_grad():
        each = [
            model(torch.from_numpy(row.ids)[None], labels=torch.from_numpy(row.labels)[None]).loss.item()
            for row in batch
        ]
    weights = [row.n_response for row in batch]
    assert len(set(weights)) > 1
    assert losses.read(job.folder_of(job.trainings[0]))[0]["loss"] == pytest.approx(
        np.average(each, weights=weights), rel=1e-5
    )


def test_micro_batches_do_not_change_the_training(make_job, tokenizer):
    ends = []
    for size in (1, 2, 6):
        job = make_job(dataclasses.replace(RECIPE, micro_batch=size), out=f"micro-{size}")
        train_all(job, tokenizer)
        ends.append([row["loss"] for row in losses.read(job.folder_of(job.trainings[0]))])
    np.testing.assert_allclose(ends[1:], [ends[0]] * 2, rtol=1e-5)


@pytest.mark.parametrize("settings", [RECIPE, LORA], ids=["full", "lora with dropout"])
@pytest.mark.parametrize("killed_in", ["a step", "publishing", "saving"])
def test_an_interrupted_training_ends_alike(settings, killed_in, make_job, tokenizer, monkeypatch):
    whole = make_job(settings, out="whole")
    train_all(whole, tokenizer)
    job = make_job(settings, out="killed", save_every=1)
    where = {"a step": "_advance", "publishing": "publish.publish", "saving": "state.save"}[killed_in]
    owner, _, name = f"training.{where}".rpartition(".")
    target = {"training": training, "training.publish": training.publish, "training.state": training.state}[owner]
    original, calls = getattr(target, name), []

    def dies(*arguments, **options):
        calls.append(1)
        if len(calls) == (2 if killed_in == "publishing" else 3):
            raise KeyboardInterrupt
        return original(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(target, name, dies)
        with pytest.raises(KeyboardInterrupt):
            train_all(job, tokenizer)
    assert len(losses.read(job.folder_of(job.trainings[0]))) in {2, 3, 4}
    train_all(job, tokenizer)
    ends = [files_of(of.folder_of(of.trainings[0])) for of in (whole, job)]
    assert ends[0] == ends[1]
    assert any(name.endswith(".safetensors") for name in ends[0])


def test_a_full_checkpoint_opens_with_its_record(make_job, tokenizer, stories):
    job = make_job()
    train_all(job, tokenizer)
    (_, last) = [folder for folder, _ in job.checkpoints_of(job.trainings[0])]
    checkpoint = checkpoints.resolve(str(last))
    record = checkpoint.training
    assert (record.parent, record.arm, record.seed, record.step, record.method) == (
        "stories260K", "with instructions", 0, 4, "full"
    )  # fmt: skip
    assert record.parent_revision == stories.revision
    assert (checkpoint.tuned_from, checkpoint.pair_source) == ("stories260K", "training record")
    assert checkpoint.name == "stories260K-with-instructions-seed0@step-000004"
    assert checkpoint.architecture == stories.architecture  # so the untrained control is the base's
    assert pairs.pair([stories, checkpoint])[1].tuned_from == "stories260K"
    source = FeatureSource(checkpoint.name, "model", checkpoint.revision, 0, checkpoint)
    columns = {"arm": record.arm, "tuning_seed": 0, "tuning_step": 4, "tuning_tokens": record.tokens}
    assert provenance._properties(source, "run").items() >= columns.items()
    model, base = (loaded_model.load(one).model.state_dict() for one in (checkpoint, stories))
    assert model.keys() == base.keys()
    assert not torch.equal(model["model.norm.weight"], base["model.norm.weight"])


def test_the_record_does_not_change_the_revision(make_job, tokenizer):
    job = make_job()
    train_all(job, tokenizer)
    folder, record = list(job.checkpoints_of(job.trainings[0]))[-1]
    before = checkpoints.resolve(str(folder)).revision
    (folder / training_records.FILE).write_text(json.dumps(dataclasses.asdict(record) | {"seed": 7}))
    after = checkpoints.resolve(str(folder))
    assert (after.revision, after.training.seed) == (before, 7)
    (folder / training_records.FILE).write_text('{"form": "harness tune 1", "seed": "x"}')
    with pytest.raises(ValueError, match=r"training\.json"):
        checkpoints.resolve(str(folder))
    (folder / training_records.FILE).write_text('{"lr": 0.1}')  # another program's
    assert checkpoints.resolve(str(folder)).training is None


def test_an_adapter_opens_as_the_model_that_was_trained(make_job, tokenizer, stories, monkeypatch):
    seen = {}
    original = training.publish.publish

    def keep(folder, staging, model, base, group, record):
        seen[record.step] = model
        original(folder, staging, model, base, group, record)

    monkeypatch.setattr(training.publish, "publish", keep)
    job = make_job(LORA)
    train_all(job, tokenizer)
    folder, record = list(job.checkpoints_of(job.trainings[0]))[-1]
    checkpoint = checkpoints.resolve(str(folder))
    assert (checkpoint.adapter, checkpoint.tuned_from, record.method) == ("LORA", "stories260K", "lora rank 4 alpha 16")
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        trained = seen[record.step].eval()(ids).logits
        opened, base = (loaded_model.load(one).model(ids).logits for one in (checkpoint, stories))
    torch.testing.assert_close(opened, trained, rtol=1e-4, atol=1e-4)
    assert (opened - base).abs().max() > 0.1
    assert not (folder / "model.safetensors").exists()


@pytest.mark.parametrize("settings", [RECIPE, LORA], ids=["full", "lora"])
def test_a_watch_sees_the_checkpoints_and_nothing_else(settings, make_job, tokenizer, monkeypatch):
    job = make_job(settings, save_every=1)
    with monkeypatch.context() as patch:  # interrupted, so that there is a state beside the checkpoints
        patch.setattr(training.state, "remove", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train_all(job, tokenizer)
    assert list(job.states_of(job.trainings[0]).rglob("*.tensors"))
    (job.staging_of(job.trainings[0])).mkdir(exist_ok=True)
    (job.staging_of(job.trainings[0]) / "model.safetensors").write_bytes(b"half")
    found = sources.list_checkpoints(job.out)
    assert [(one.model, one.waits_for, one.damage) for one in found] == [
        (str(folder), "", "") for folder, _ in job.checkpoints_of(job.trainings[0])
    ]


def test_bfloat16_passes_train_float32_weights(make_job, tokenizer):
    job = make_job(dataclasses.replace(RECIPE, dtype="bfloat16", recompute=True))
    train_all(job, tokenizer)
    exact = make_job(out="exact")
    train_all(exact, tokenizer)
    rows, exact_rows = (losses.read(one.folder_of(one.trainings[0])) for one in (job, exact))
    assert [row["loss"] for row in rows] == pytest.approx([row["loss"] for row in exact_rows], rel=0.02)
    assert rows != exact_rows
    folder, record = list(job.checkpoints_of(job.trainings[0]))[-1]
    assert record.settings["dtype"] == "bfloat16"
    assert load_file(folder / "model.safetensors")["model.norm.weight"].dtype == torch.float32  # as the base's file


def test_a_diverging_training_says_so(make_job, tokenizer):
    job = make_job(dataclasses.replace(RECIPE, lr=1e30, clip=1e30, epochs=4, warmup=0.0))
    with pytest.raises(ValueError, match="use a lower --lr"):
        train_all(job, tokenizer)


def test_a_gradient_that_is_not_finite_is_not_applied(make_job, tokenizer, monkeypatch):
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *_: torch.tensor(float("inf")))
    job = make_job(dataclasses.replace(RECIPE, n_checkpoints=4))
    with pytest.raises(ValueError, match=r"step 1 has loss .* and gradient norm inf; use a lower --lr"):
        train_all(job, tokenizer)
    assert not list(job.checkpoints_of(job.trainings[0]))


@pytest.mark.parametrize("family", ["gpt_neox", "gpt2", "llama"])
def test_tensors_keep_the_names_of_the_bases_files(family, make_job, tmp_path):
    """transformers renames some when it loads them (GPT-NeoX's embed_out becomes lm_head)."""
    base = checkpoints.resolve(str(tiny.build(family, tmp_path / family, PROMPTS, seed=1)))
    job = dataclasses.replace(make_job(dataclasses.replace(RECIPE, length=128, n_checkpoints=1)), base=base)
    train_all(job, architectures.read(base.folder).tokenizer)
    ((folder, _),) = job.checkpoints_of(job.trainings[0])
    assert load_file(folder / "model.safetensors").keys() == load_file(f"{base.folder}/model.safetensors").keys()


def test_a_finished_job_removes_its_states_and_no_others(make_job, tokenizer):
    job = make_job(seeds=(0, 1), save_every=1)
    train_all(job, tokenizer)
    for training_ in job.trainings:  # as if the command had been killed at its end
        (job.states_of(training_) / "step-000003").mkdir(parents=True)
    trainer.tune(dataclasses.replace(job, seeds=(1,)))
    assert [job.states_of(training_).exists() for training_ in job.trainings] == [True, False]


def test_another_recipe_needs_another_folder(make_job, tokenizer):
    train_all(make_job(), tokenizer)
    with pytest.raises(ValueError, match=r"lr 0.001 \(now 0.01\).*Give another --out"):
        make_job(dataclasses.replace(RECIPE, lr=0.01)).claim_folder()
    more = make_job(arms=("with instructions", "without instructions"), seeds=(0, 1))
    more.claim_folder()
    assert len(more.unfinished) == 3


@pytest.mark.parametrize(("options", "message"), [
    ({"n_workers": 4}, "workers cannot share"), ({"n_workers": 0}, "workers"), ({"seeds": (0, 0)}, "none twice"),
    ({"arms": ()}, "at least one"), ({"recipe": dataclasses.replace(RECIPE, length=513)}, "exceeds the 512 tokens"),
])  # fmt: skip
def test_impossible_jobs_are_refused(options, message, make_job):
    with pytest.raises(ValueError, match=message):
        make_job(**options)


def test_encoder_decoders_are_refused(make_job, shared):
    with pytest.raises(ValueError, match="only decoders"):
        dataclasses.replace(make_job(), base=checkpoints.resolve(str(shared / "models" / "t5-wikitext")))


def test_an_unknown_target_is_refused(make_job, tokenizer):
    job = make_job(dataclasses.replace(RECIPE, lora=Lora(targets=("absent",))))
    with pytest.raises(ValueError, match="--lora-targets"):
        train_all(job, tokenizer)
