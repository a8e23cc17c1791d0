"""Checkpoints on the Hub, simulated by a local server: commits, gated models, locks, deltas, lazy fetching."""

from __future__ import annotations

import hashlib
import http.server
import json
import re
import shutil
import threading
from pathlib import Path
from urllib.parse import unquote

import huggingface_hub
import huggingface_hub.hf_api
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from harness.checkpoints import checkpoints, hub
from harness.cli.commands import main
from harness.extraction import backends
from harness.models import model_table, tiny
from harness.models.model_table import Entry
from harness.watching import sources

TEXT = ["the old bee watched the hive"]
TOKEN = "hf_secretsecretsecretsecret"


class Hub:
    """Simulated repositories.

    Attributes:
        revisions: repository -> {revision: commit}.
        commits: commit -> folder with its files.
        gated: repositories whose files are refused.
        requests: (method, path) of each request received.
        authors: (repository, number) of a pull request -> author; its files are those of revision refs/pr/N.
    """

    def __init__(self):
        self.revisions, self.commits, self.gated, self.requests, self.authors = {}, {}, set(), [], {}

    def add(self, repo, folder, revision="main"):
        commit = hashlib.sha256(f"{repo}{folder}".encode()).hexdigest()[:40]
        self.revisions.setdefault(repo, {})[revision] = commit
        self.commits[commit] = Path(folder)
        return commit

    def files(self, commit):
        return sorted(path for path in self.commits[commit].iterdir() if path.is_file())


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers requests as the Hub does, from `repositories`."""

    repositories: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        """Suppress the server log."""

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        path = unquote(self.path.partition("?")[0])
        self.repositories.requests.append((self.command, path))
        api = re.fullmatch(
            r"/api/models/([\w.-]+/[\w.-]+)(?:/revision/(.+?)|/(refs)|/tree/(.+?)|/(discussions))?", path
        )
        file = re.fullmatch(r"/([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)", path)
        match = api or file
        if not match or match[1] not in self.repositories.revisions:
            return self.reply(401, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        repo, names = match[1], self.repositories.revisions[match[1]]
        if repo in self.repositories.gated and file:
            message = f"Access to model {repo} is restricted."
            return self.reply(403, {"error": message}, {"X-Error-Code": "GatedRepo", "X-Error-Message": message})
        if api and api[3]:
            refs = [{"name": name, "ref": f"refs/heads/{name}", "targetCommit": names[name]} for name in names]
            pulls = [{"name": ref["name"], "ref": ref["name"], "targetCommit": ref["targetCommit"]}
                     for ref in refs if ref["name"].startswith("refs/pr/")]  # fmt: skip
            branches = [ref for ref in refs if not ref["name"].startswith("refs/pr/")]
            extra = {"pullRequests": pulls} if "include_prs=1" in self.path else {}
            return self.reply(200, {"branches": branches, "tags": [], "converts": [], **extra})
        if api and api[5]:
            rows = [{"title": "Adding safetensors", "num": number, "author": {"name": author}, "status": "open",
                     "createdAt": "2023-07-01T00:00:00.000Z", "isPullRequest": True,
                     "repo": {"name": repo, "type": "model"}}
                    for (of, number), author in self.repositories.authors.items() if of == repo]  # fmt: skip
            return self.reply(200, {"discussions": rows, "count": len(rows), "start": 0})
        revision = (api[2] or api[4] or "main") if api else file[2]
        commit = names.get(revision, revision if revision in names.values() else None)
        if commit is None:
            return self.reply(404, {"error": "Revision not found"}, {"X-Error-Code": "RevisionNotFound"})
        if api and api[4]:
            rows = [{"type": "file", "path": entry.name, "size": entry.stat().st_size, "oid": "0" * 40}
                    for entry in self.repositories.files(commit)]  # fmt: skip
            return self.reply(200, rows)
        if api:
            siblings = [{"rfilename": entry.name} for entry in self.repositories.files(commit)]
            return self.reply(200, {"id": repo, "modelId": repo, "sha": commit, "siblings": siblings, "tags": [],
                                  "private": False, "downloads": 0, "likes": 0})  # fmt: skip
        return self.send_file(self.repositories.commits[commit] / file[3], commit, body)

    def send_file(self, path, commit, body):
        if not path.is_file():
            return self.reply(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
        content = path.read_bytes()
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": commit,
                   "Accept-Ranges": "bytes"}  # fmt: skip
        status, byte_range = 200, re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if byte_range:
            status, last = 206, min(int(byte_range[2] or len(content)), len(content) - 1)
            headers["Content-Range"] = f"bytes {byte_range[1]}-{last}/{len(content)}"
            content = content[int(byte_range[1]) : last + 1]
        return self.reply(status, content, headers, body)

    def reply(self, status, content, headers=None, body=True):
        raw = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(raw))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body and self.command == "GET":
            self.wfile.write(raw)


@pytest.fixture
def site(tmp_path, monkeypatch):
    repositories = Hub()
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), type("BoundHandler", (Handler,), {"repositories": repositories})
    )
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", url)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.chdir(tmp_path)
    yield repositories
    server.shutdown()
    server.server_close()


@pytest.fixture
def folder(tmp_path):
    return tiny.build("llama", tmp_path / "weights", TEXT, 0)


def test_resolving_gives_commit_and_size_and_weights_are_fetched_at_loading(site, folder):
    commit = site.add("org/model", folder)
    checkpoint = checkpoints.resolve("org/model")
    assert (checkpoint.name, checkpoint.revision, checkpoint.hub_id) == ("org/model", commit, "org/model")
    local = checkpoints.resolve(str(folder))
    assert (checkpoint.n_parameters, checkpoint.n_layers, checkpoint.n_heads) == (
        local.n_parameters,
        tiny.BLOCKS,
        tiny.HEADS,
    )
    assert not list(Path(checkpoint.folder).glob("*.safetensors"))
    ready = checkpoints.with_weights(checkpoint)
    assert (Path(ready.folder) / "model.safetensors").is_file()
    model = backends.load("transformers", checkpoint, "cpu")
    ours = model.loaded.model.get_input_embeddings().weight
    assert torch.equal(ours, load_file(folder / "model.safetensors")["model.embed_tokens.weight"])
    n = len(site.requests)
    assert checkpoints.with_weights(checkpoint) == ready
    assert not any("safetensors" in path and command == "GET" for command, path in site.requests[n:])


def test_a_moved_branch_resolves_to_its_new_commit_unless_a_lock_pins_the_old_one(site, folder, tmp_path, capsys):
    old = site.add("org/model", folder)
    assert main(["models", "pin", "org/model"]) == 0
    other = tiny.build("llama", tmp_path / "later", TEXT, 1)
    new = site.add("org/model", other)
    assert checkpoints.resolve("org/model").revision == old
    assert "new" in capsys.readouterr().out
    assert main(["models", "pin", "org/model", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["commit"], row["was"]) == (new, old)
    held = json.loads((tmp_path / "models.lock").read_text())["org/model"]
    assert (held["commit"], held["revision"]) == (new, "main")
    assert held["n_parameters"] == checkpoints.resolve(str(other)).n_parameters
    (tmp_path / "models.lock").unlink()
    assert checkpoints.resolve("org/model").revision == new


def test_a_revision_is_resolved_by_name(site, folder, tmp_path):
    site.add("org/model", folder)
    step = site.add("org/model", tiny.build("llama", tmp_path / "early", TEXT, 2), "step1000")
    checkpoint = checkpoints.resolve("org/model@step1000")
    assert (checkpoint.name, checkpoint.revision) == ("org/model@step1000", step)
    assert hub.refs("org/model") == ["main", "step1000"]
    with pytest.raises(FileNotFoundError, match="org/model has no revision 'step7'"):
        checkpoints.resolve("org/model@step7")


@pytest.mark.parametrize("revision", ["refs/pr/2", "main", "step1000", "stage1-step-40000", "v1.0+cu", "a" * 40])
def test_valid_revision_names_are_accepted(revision):
    hub.require_revision(revision)


@pytest.mark.parametrize("revision", [
    "", "..", "../x", "refs/../x", "/etc", "refs//pr", "refs/pr/", ".git", "refs/.pr/2", "-x", "a b", "a\n", "a..b",
])  # fmt: skip
def test_invalid_revisions_and_paths_out_of_the_cache_are_refused(site, folder, revision):
    site.add("org/model", folder)
    with pytest.raises(ValueError, match="is no revision; give a branch, a tag or a commit"):
        hub.resolve_revision("org/model", revision)
    assert not site.requests


# --- pickles ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def pickled(folder, tmp_path):
    """The model with pickled weights beside a trainer state, which holds no weights."""
    copy = shutil.copytree(folder, tmp_path / "pickled")
    torch.save(load_file(copy / "model.safetensors"), copy / "pytorch_model.bin")
    torch.save({"epoch": torch.ones(2)}, copy / "training_args.bin")
    (copy / "model.safetensors").unlink()
    return copy


def test_a_pickle_only_model_is_refused_before_fetching_and_the_error_names_its_converted_copy(site, folder, pickled):
    site.add("org/model", pickled)
    site.add("org/model", tiny.build("llama", folder.parent / "others", TEXT, 3), "refs/pr/1")
    converted = site.add("org/model", folder, "refs/pr/2")
    site.authors = {("org/model", 1): "somebody", ("org/model", 2): "SFconvertbot"}
    with pytest.raises(FileNotFoundError) as refused:
        checkpoints.resolve("org/model")
    assert str(refused.value) == (
        "org/model: its weights on the Hub are pickles only (*.bin), which can run code when they are read; use "
        "org/model@refs/pr/2, where the Hub's converter put a copy in safetensors, or pass --allow-pickle if you trust "
        "the publisher."
    )
    assert not [path for _, path in site.requests if "/resolve/" in path]
    checkpoint = checkpoints.resolve("org/model@refs/pr/2")
    assert (checkpoint.name, checkpoint.revision) == ("org/model@refs/pr/2", converted)
    loaded = backends.load("transformers", checkpoint, "cpu").loaded.model.get_input_embeddings().weight
    assert torch.equal(loaded, load_file(folder / "model.safetensors")["model.embed_tokens.weight"])


def test_error_without_a_converted_copy_says_where_one_would_be(site, pickled):
    site.add("org/model", pickled)
    site.authors = {("org/model", 3): "SFconvertbot"}  # the pull request has no files any more
    with pytest.raises(FileNotFoundError, match=re.escape("(org/model@refs/pr/N if somebody converted them; none was")):
        checkpoints.resolve("org/model")


def test_a_table_model_can_be_loaded_from_a_pull_request(site, folder, pickled, monkeypatch):
    site.add("google/t5-v1_1-base", pickled)
    commit = site.add("google/t5-v1_1-base", folder, "refs/pr/2")
    checkpoint = checkpoints.resolve("t5-base@refs/pr/2")
    assert (checkpoint.name, checkpoint.revision, checkpoint.hub_id) == (
        "t5-base@refs/pr/2",
        commit,
        "google/t5-v1_1-base",
    )
    assert main(["models", "pin", "t5-base@refs/pr/2", "t5-base"]) == 0
    assert set(hub.pinned()) == {"t5-base@refs/pr/2", "t5-base"}
    site.add("google/t5-v1_1-base", tiny.build("llama", folder.parent / "later", TEXT, 4), "refs/pr/2")
    assert checkpoints.resolve("t5-base@refs/pr/2").revision == commit
    assert hub.commits_by_ref("google/t5-v1_1-base") == {"main": hub.pinned()["t5-base"]["commit"]}
    assert "refs/pr/2" in hub.commits_by_ref("google/t5-v1_1-base", pull_requests=True)
    (seen,) = sources.list_checkpoints(str(_list(folder.parent / "list.txt", "t5-base@refs/pr/2")))
    assert seen.model == "t5-base@refs/pr/2"
    with pytest.raises(ValueError, match="t5-base@refs/pr/9 is not among"):
        sources.list_checkpoints(str(_list(folder.parent / "list.txt", "t5-base@refs/pr/9")))
    assert [one.model for one in sources.list_checkpoints("t5-base")] == ["t5-base@main"]


def _list(file, name):
    file.write_text(f"{name}\n")
    return file


def test_allowed_pickles_are_fetched_without_other_files_and_loaded(site, folder, pickled):
    site.add("org/model", pickled)
    checkpoint = checkpoints.resolve("org/model", allow_pickle=True)
    local = load_file(folder / "model.safetensors")
    assert checkpoint.n_parameters == sum(tensor.numel() for tensor in local.values())  # not in the table, so counted
    with pytest.raises(ValueError, match="pickle"):
        backends.load("transformers", checkpoint, "cpu")
    weights = backends.load("transformers", checkpoint, "cpu", allow_pickle=True).loaded.model.state_dict()
    assert torch.equal(weights["model.embed_tokens.weight"], local["model.embed_tokens.weight"])
    fetched = {path.name for path in Path(checkpoint.folder).iterdir()}
    assert "pytorch_model.bin" in fetched
    assert "training_args.bin" not in fetched


def test_pickles_beside_safetensors_are_not_fetched(site, folder):
    torch.save({"not": torch.ones(1)}, folder / "pytorch_model.bin")
    site.add("org/model", folder)
    ready = checkpoints.with_weights(checkpoints.resolve("org/model", allow_pickle=True), allow_pickle=True)
    assert not list(Path(ready.folder).glob("*.bin"))


def test_a_pickled_table_model_has_its_nominal_size(site, pickled):
    site.add("google/t5-v1_1-base", pickled)
    checkpoint = checkpoints.resolve("t5-base", allow_pickle=True)
    assert checkpoint.n_parameters == 250_000_000
    assert not list(Path(checkpoint.folder).glob("*.bin"))


def test_pickles_in_subfolders_and_of_other_libraries_are_ignored(site, folder):
    (folder / "onnx").mkdir()
    (folder / "tf_model.bin").write_bytes(b"x")
    (folder / "optimizer.bin").write_bytes(b"x")
    site.add("org/model", folder)
    assert checkpoints.resolve("org/model").n_parameters


def test_hub_errors_are_one_sentence_without_the_token(site, folder):
    site.add("org/gated", folder)
    site.gated.add("org/gated")
    with pytest.raises(FileNotFoundError, match="org/gated is gated: ask for access") as gated:
        checkpoints.resolve("org/gated")
    with pytest.raises(FileNotFoundError, match="org/nowhere is not on the Hub, or is private") as absent:
        checkpoints.resolve("org/nowhere")
    assert TOKEN not in f"{gated.value} {absent.value}"


def test_cached_models_resolve_without_a_network(site, folder, monkeypatch):
    commit = site.add("org/model", folder)
    checkpoint = checkpoints.with_weights(checkpoints.resolve("org/model"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    n = len(site.requests)
    again = checkpoints.resolve("org/model")
    assert (again.revision, again.n_parameters) == (commit, checkpoint.n_parameters)
    assert len(site.requests) == n
    with pytest.raises(FileNotFoundError, match="not in the cache"):
        checkpoints.resolve("org/other")


def test_a_delta_is_added_to_its_base_each_at_its_own_commit(site, folder, tmp_path, monkeypatch):
    base = load_file(folder / "model.safetensors")
    delta = tiny.build("llama", tmp_path / "delta", TEXT, 5)
    change = {name: torch.full_like(tensor, 0.25) for name, tensor in base.items()}
    save_file(change, delta / "model.safetensors", metadata={"format": "pt"})
    commits = site.add("org/base", folder), site.add("org/delta", delta)
    entries = {
        "base": Entry("base", "org/base", "llama"),
        "tuned": Entry("tuned", "org/delta", "llama", tuned_from="base", delta_of="base"),
    }
    monkeypatch.setattr(model_table, "MODELS", entries)
    checkpoint = checkpoints.resolve("tuned")
    assert checkpoint.revision == f"{commits[1]}+{commits[0]}"
    assert (checkpoint.tuned_from, checkpoint.base_hub_id) == ("base", "org/base")
    weights = backends.load("transformers", checkpoint, "cpu").loaded.model.get_input_embeddings().weight
    np.testing.assert_allclose(weights.detach().numpy(), base["model.embed_tokens.weight"].numpy() + 0.25, atol=1e-6)


def test_an_adapter_is_merged_onto_its_base_each_at_its_own_commit(site, folder, tmp_path):
    """The base's revision is that of adapter_config.json; weights of both are fetched at loading."""
    import peft
    from transformers import AutoModelForCausalLM

    config = peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", revision="v1")
    wrapped = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(folder), config)
    with torch.no_grad():
        for name, weight in wrapped.named_parameters():
            if "lora_B" in name:
                weight += 0.5
    wrapped.save_pretrained(tmp_path / "lora")
    file = tmp_path / "lora" / "adapter_config.json"
    stated = json.loads(file.read_text()) | {"base_model_name_or_path": "org/base", "revision": "v1"}
    file.write_text(json.dumps(stated))
    site.add("org/base", tiny.build("llama", tmp_path / "newer", TEXT, 7))
    commits = site.add("org/base", folder, "v1"), site.add("org/lora", tmp_path / "lora")
    checkpoint = checkpoints.resolve("org/lora")
    assert checkpoint.revision == f"{commits[1]}+{commits[0]}"
    assert (checkpoint.name, checkpoint.tuned_from, checkpoint.pair_source) == ("org/lora", "org/base@v1", "adapter")
    assert (checkpoint.hub_id, checkpoint.base_hub_id) == ("org/lora", "org/base")
    assert checkpoint.n_parameters == checkpoints.resolve(str(folder)).n_parameters
    assert not list(Path(checkpoint.folder).glob("*.safetensors"))
    assert not list(Path(checkpoint.base_folder).glob("*.safetensors"))
    key = "model.layers.0.self_attn.q_proj.weight"
    loaded = backends.load("transformers", checkpoint, "cpu").loaded.model.state_dict()[key]
    merged = wrapped.merge_and_unload().state_dict()[key]
    np.testing.assert_allclose(loaded.numpy(), merged.numpy(), atol=1e-6)
    assert not np.allclose(loaded.numpy(), load_file(folder / "model.safetensors")[key].numpy(), atol=1e-3)


def test_scales_of_quantised_weights_on_the_hub_are_not_counted_as_parameters(site, folder):
    n_parameters = checkpoints.resolve(str(folder)).n_parameters
    tensors = load_file(folder / "model.safetensors")
    key = "model.layers.0.self_attn.q_proj.weight"
    tensors |= {key: tensors[key].to(torch.float8_e4m3fn), f"{key}_scale_inv": torch.ones(3, 3)}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    settings = {"quant_method": "fp8", "weight_block_size": [16, 16]}
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": settings}))
    site.add("org/quantised", folder)
    assert checkpoints.resolve("org/quantised").n_parameters == n_parameters


def test_an_invalid_lock_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models.lock").write_text('{"m": {"commit": ""}}')
    with pytest.raises(ValueError, match=r"models\.lock is no lock"):
        hub.pinned()
