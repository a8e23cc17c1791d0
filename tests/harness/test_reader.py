"""A checkpoint is loaded whole or not at all."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from harness import checkpoints, reader, tiny


@pytest.fixture
def folder(tmp_path):
    return tiny.build("llama", tmp_path / "m", ["the old bee watched the hive"], seed=0)


def _load(folder, **options):
    return reader.load(checkpoints.resolve(str(folder)), **options)


def _rewrite(folder, change):
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, {"format": "pt"})


def _reconfigure(folder, **entries):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | entries))


def test_a_block_that_is_missing_is_not_drawn_at_random(folder):
    _rewrite(folder, lambda tensors: {key: tensor for key, tensor in tensors.items() if ".layers.2." not in key})
    with pytest.raises(ValueError, match=r"weights are missing in the file, the first is model\.layers\.2"):
        _load(folder)


@pytest.mark.parametrize(("entries", "message"), [
    ({"num_hidden_layers": 6}, "are missing in the file"),
    ({"num_hidden_layers": 2}, "are of blocks that config.json does not have"),
    ({"intermediate_size": 10}, "have another shape"),
    ({"model_type": "nosuch"}, "cannot be loaded"),
])  # fmt: skip
def test_a_configuration_that_does_not_fit_the_weights_is_refused(folder, entries, message):
    _reconfigure(folder, **entries)
    with pytest.raises(ValueError, match=message):
        _load(folder)


def test_weights_that_are_not_finite_are_refused(folder):
    def spoil(tensors):
        key = sorted(tensors)[3]
        return tensors | {key: np.full_like(tensors[key], np.nan)}

    _rewrite(folder, spoil)
    with pytest.raises(ValueError, match="are not finite"):
        _load(folder)


@pytest.mark.parametrize("content", ['{"a": 1}', '{"version": "1.0", "mod', ""])
def test_a_damaged_tokenizer_is_refused_by_the_models_name(folder, content):
    (folder / "tokenizer.json").write_text(content)
    with pytest.raises(ValueError, match=f"{folder.name}: cannot be loaded"):
        _load(folder)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_decoder_that_sees_what_is_to_come_is_refused(tmp_path, dtype):
    """As the embedding models made of Gemma 3 are: a decoder's class, and attention both ways."""
    folder = tiny.build("gemma3_text", tmp_path / "m", ["the old bee watched the hive"], seed=0)
    _reconfigure(folder, use_bidirectional_attention=True)
    with pytest.raises(ValueError, match="'gemma3_text' sees what is to come"):
        _load(folder, dtype=dtype)


def test_bos_comes_from_the_configuration_where_the_tokenizer_names_none(folder):
    assert _load(folder).prefix == (0,)
    (folder / "tokenizer_config.json").unlink()
    assert _load(folder).prefix == (0,)
    _reconfigure(folder, bos_token_id=None)
    assert _load(folder).prefix == ()
