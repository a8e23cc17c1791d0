"""The plan's counts, against what torch and PEFT really hold."""

import dataclasses
import json

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from harness.cli.commands import main
from harness.tuning import adaptation, examples, forecast, sequences
from harness.tuning.forecast import Machines, Shape
from harness.tuning.recipe import Lora, Recipe

LLAMA_7B = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008,
    "num_hidden_layers": 32, "num_attention_heads": 32, "vocab_size": 32000, "max_position_embeddings": 2048,
    "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
FOUR = Machines(4, 80e9, usd_per_gpu_hour=2.0)


@pytest.fixture(scope="module")
def llama_7b(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama-7b")
    (folder / "config.json").write_text(json.dumps(LLAMA_7B))
    return str(folder)


def kept_bytes(model, n_sequences, n_tokens, precision):
    """Bytes of the tensors that autograd saves in a forward pass with loss, without the parameters."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    ids = torch.randint(0, model.config.vocab_size, (n_sequences, n_tokens))
    is_autocast = precision == "autocast"
    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=is_autocast),
    ):
        logits = model(input_ids=ids, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].float().flatten(0, 1), ids[:, 1:].flatten())
    assert loss.isfinite()
    return sum(n_bytes for n_bytes, _ in kept.values())


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "autocast"])
def test_activations_are_what_torch_keeps(precision):
    """The difference of four blocks and two; casts of weights, which do not grow with the tokens, are subtracted."""

    def model(n_layers):
        made = LlamaForCausalLM(LlamaConfig(
            vocab_size=64, hidden_size=128, intermediate_size=344, num_hidden_layers=n_layers, num_attention_heads=2
        ))  # fmt: skip
        return made.to(torch.bfloat16) if precision == "bfloat16" else made

    def of_two_blocks(n_tokens):
        return kept_bytes(model(4), 2, n_tokens, precision) - kept_bytes(model(2), 2, n_tokens, precision)

    measured = of_two_blocks(64) - of_two_blocks(32)
    shape = Shape("tiny", 1e6, 2, 128, 344, 64, True)
    settings = [
        Recipe(dtype="float32" if precision == "float32" else "bfloat16", micro_batch=2, length=n) for n in (64, 32)
    ]
    with_logits = [forecast.activations(shape, one, precision) for one in settings]
    logits = 2 * 32 * forecast.LOGIT_BYTES * 64
    assert with_logits[0] - with_logits[1] - logits == pytest.approx(measured, rel=0.1)


def test_parameters_are_counted(llama_7b, stories):
    shape = forecast.shape_of(llama_7b)
    assert (shape.n_parameters, shape.n_layers, shape.hidden_size, shape.mlp_width) == (6738415616, 32, 4096, 11008)
    assert shape.is_counted
    assert forecast.lora_parameters(shape, Lora(rank=8)) == 4194304  # as Alpaca-LoRA prints
    assert forecast.shape_of(stories.folder).n_parameters == stories.n_parameters
    nominal = forecast.shape_of("llama-7b")
    assert (nominal.n_parameters, nominal.n_layers, nominal.is_counted) == (7e9, 32, False)
    assert nominal.hidden_size == pytest.approx(4096, rel=0.05)


def test_adapters_are_counted_as_peft_makes_them():
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4
    )
    shape = Shape("tiny", 1e5, 3, 32, 96, 64, True)
    for lora in (Lora(rank=2), Lora(rank=4, targets=("all-linear",)), Lora(targets=("o_proj", "up_proj"))):
        model = adaptation.adapt(LlamaForCausalLM(config), lora, 0, "tiny")
        n_trained = sum(parameter.numel() for parameter in adaptation.trained(model).values())
        assert forecast.lora_parameters(shape, lora) == n_trained


def test_llama_7b_fits_on_four_gpus_only_if_sharded(llama_7b):
    shape, recipe = forecast.shape_of(llama_7b), Recipe()
    sharded, replicated = (forecast.make(shape, recipe, FOUR, way, 52002, 200.0) for way in (True, False))
    assert sharded.weights + sharded.gradients + sharded.optimizer == 16 * shape.n_parameters / 4
    assert (sharded.fits(FOUR), replicated.fits(FOUR)) == (True, False)
    assert sharded.n_steps == 1218
    assert sharded.n_tokens == 1218 * 128 * 200
    attention = 12 * 32 * 4096 * 200
    expected_s = sharded.n_tokens * (6 * shape.n_parameters + attention) / (4 * FOUR.flops)
    assert sharded.compute_s == pytest.approx(expected_s)
    assert sharded.communication_s == pytest.approx(1218 * 8 * 0.75 * 8 * shape.n_parameters / FOUR.link_bytes_s)
    assert sharded.usd(FOUR) == pytest.approx(2 * 4 * sharded.seconds / 3600)
    lora = forecast.make(shape, dataclasses.replace(recipe, lora=Lora()), FOUR, False, 52002, 200.0)
    assert lora.fits(FOUR)
    assert lora.compute_s < 0.7 * sharded.compute_s
    less = forecast.make(shape, dataclasses.replace(recipe, recompute=True), FOUR, True, 52002, 200.0)
    assert less.activations < 0.2 * sharded.activations
    assert less.compute_s == pytest.approx(sharded.compute_s * 4 / 3)


def test_tokens_are_counted_with_padding(examples_file, tokenizer):
    recipe = Recipe(micro_batch=16, length=512, batch=16)
    rows = examples.read(examples_file)
    longest = max(len(one.ids) for one in sequences.of_examples(rows, tokenizer, (1,), 512).by_arm["with instructions"])
    assert forecast.count(rows, tokenizer, (1,), recipe) == (16, longest)
    n, mean = forecast.count(rows, tokenizer, (1,), dataclasses.replace(recipe, micro_batch=1))
    assert n == 16
    assert mean < longest


def test_the_command_prints_a_plan(llama_7b, stories, examples_file, capsys):
    options = ["--gpus", "4", "--usd-per-gpu-hour", "2", "--seeds", "0,1,2"]
    assert main(["tune", llama_7b, "--plan", "--fsdp", *options, "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["fits"]
    assert content["n_trainings"] == 6
    assert content["all_usd"] == pytest.approx(6 * content["usd"])
    assert sum(content["memory_gb"].values()) == pytest.approx(2 * content["memory_gb"]["total"])
    assert main(["tune", llama_7b, "--plan", *options]) == 1
    assert "DOES NOT FIT" in capsys.readouterr().out
    assert main(["tune", stories.folder, str(examples_file), "--batch", "4", "--plan"]) == 0
    assert "16 examples" in capsys.readouterr().out


@pytest.mark.parametrize(("words", "message"), [
    (["llama-7b", "--plan", "--gpus", "0"], "1 or more --gpus"), (["t5-small", "--plan"], "only decoders"),
    (["llama-7b", "--plan", "--examples", "0"], "--examples"), (["llama-7b"], "no examples"),
    (["llama-7b", "--plan", "--seeds", "a"], "--seeds 'a'"), (["nowhere-7b", "absent.json"], "nowhere-7b"),
])  # fmt: skip
def test_wrong_usage_is_explained(words, message, capsys):
    assert main(["tune", *words]) == 2
    assert message in capsys.readouterr().err
