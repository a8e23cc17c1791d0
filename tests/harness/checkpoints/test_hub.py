"""The Hub, played by a server on this machine: commits, gates, locks, deltas, and weights that come last."""

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
    """Repositories: id -> {revision: commit}, {commit: folder}; who asks for gated ones is refused.

    authors: (id, number of a pull request) -> who opened it; its files are those of the revision refs/pr/N.
    """

    def __init__(self):
        self.revisions, self.commits, self.gated, self.asked, self.authors = {}, {}, set(), [], {}

    def add(self, repo, folder, revision="main"):
        commit = hashlib.sha256(f"{repo}{folder}".encode()).hexdigest()[:40]
        self.revisions.setdefault(repo, {})[revision] = commit
        self.commits[commit] = Path(folder)
        return commit

    def files(self, commit):
        return sorted(path for path in self.commits[commit].iterdir() if path.is_file())


def handler_of(made: Hub):
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            """Say nothing."""

        def do_HEAD(self):
            self.answer(body=False)

        def do_GET(self):
            self.answer(body=True)

        def answer(self, body):
            path = unquote(self.path.partition("?")[0])
            made.asked.append((self.command, path))
            api = re.fullmatch(
                r"/api/models/([\w.-]+/[\w.-]+)(?:/revision/(.+?)|/(refs)|/tree/(.+?)|/(discussions))?", path
            )
            file = re.fullmatch(r"/([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)", path)
            found = api or file
            if not found or found[1] not in made.revisions:
                return self.say(401, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
            repo, names = found[1], made.revisions[found[1]]
            if repo in made.gated and file:
                said = f"Access to model {repo} is restricted."
                return self.say(403, {"error": said}, {"X-Error-Code": "GatedRepo", "X-Error-Message": said})
            if api and api[3]:
                refs = [{"name": name, "ref": f"refs/heads/{name}", "targetCommit": names[name]} for name in names]
                asked = [{"name": ref["name"], "ref": ref["name"], "targetCommit": ref["targetCommit"]}
                         for ref in refs if ref["name"].startswith("refs/pr/")]  # fmt: skip
                branches = [ref for ref in refs if not ref["name"].startswith("refs/pr/")]
                wanted = {"pullRequests": asked} if "include_prs=1" in self.path else {}
                return self.say(200, {"branches": branches, "tags": [], "converts": [], **wanted})
            if api and api[5]:
                rows = [{"title": "Adding safetensors", "num": number, "author": {"name": author}, "status": "open",
                         "createdAt": "2023-07-01T00:00:00.000Z", "isPullRequest": True,
                         "repo": {"name": repo, "type": "model"}}
                        for (of, number), author in made.authors.items() if of == repo]  # fmt: skip
                return self.say(200, {"discussions": rows, "count": len(rows), "start": 0})
            revision = (api[2] or api[4] or "main") if api else file[2]
            commit = names.get(revision, revision if revision in names.values() else None)
            if commit is None:
                return self.say(404, {"error": "Revision not found"}, {"X-Error-Code": "RevisionNotFound"})
            if api and api[4]:
                rows = [{"type": "file", "path": each.name, "size": each.stat().st_size, "oid": "0" * 40}
                        for each in made.files(commit)]  # fmt: skip
                return self.say(200, rows)
            if api:
                siblings = [{"rfilename": each.name} for each in made.files(commit)]
                return self.say(200, {"id": repo, "modelId": repo, "sha": commit, "siblings": siblings, "tags": [],
                                      "private": False, "downloads": 0, "likes": 0})  # fmt: skip
            return self.send_file(made.commits[commit] / file[3], commit, body)

        def send_file(self, path, commit, body):
            if not path.is_file():
                return self.say(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
            content = path.read_bytes()
            headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": commit,
                       "Accept-Ranges": "bytes"}  # fmt: skip
            status, asked = 200, re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            if asked:
                status, last = 206, min(int(asked[2] or len(content)), len(content) - 1)
                headers["Content-Range"] = f"bytes {asked[1]}-{last}/{len(content)}"
                content = content[int(asked[1]) : last + 1]
            return self.say(status, content, headers, body)

        def say(self, status, content, headers=None, body=True):
            raw = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            for name, value in {**(headers or {}), "Content-Length": str(len(raw))}.items():
                self.send_header(name, value)
            self.end_headers()
            if body and self.command == "GET":
                self.wfile.write(raw)

    return Handler


@pytest.fixture
def site(tmp_path, monkeypatch):
    made = Hub()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler_of(made))
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
    yield made
    server.shutdown()
    server.server_close()


@pytest.fixture
def folder(tmp_path):
    return tiny.build("llama", tmp_path / "weights", TEXT, 0)


def test_a_model_is_resolved_to_its_commit_and_size_without_its_weights_which_come_when_it_is_loaded(site, folder):
    commit = site.add("org/model", folder)
    found = checkpoints.resolve("org/model")
    assert (found.name, found.revision, found.hub_id) == ("org/model", commit, "org/model")
    local = checkpoints.resolve(str(folder))
    assert (found.n_parameters, found.n_layers, found.n_heads) == (local.n_parameters, tiny.BLOCKS, tiny.HEADS)
    assert not list(Path(found.folder).glob("*.safetensors"))
    ready = checkpoints.with_weights(found)
    assert (Path(ready.folder) / "model.safetensors").is_file()
    model = backends.load("transformers", found, "cpu")
    ours = model.reader.model.get_input_embeddings().weight
    assert torch.equal(ours, load_file(folder / "model.safetensors")["model.embed_tokens.weight"])
    n = len(site.asked)
    assert checkpoints.with_weights(found) == ready
    assert not any("safetensors" in path and command == "GET" for command, path in site.asked[n:])


def test_a_branch_that_moves_gives_its_new_commit_and_a_lock_keeps_the_old_one(site, folder, tmp_path, capsys):
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


def test_a_revision_is_asked_for_by_name(site, folder, tmp_path):
    site.add("org/model", folder)
    step = site.add("org/model", tiny.build("llama", tmp_path / "early", TEXT, 2), "step1000")
    found = checkpoints.resolve("org/model@step1000")
    assert (found.name, found.revision) == ("org/model@step1000", step)
    assert hub.refs("org/model") == ["main", "step1000"]
    with pytest.raises(FileNotFoundError, match="org/model has no revision 'step7'"):
        checkpoints.resolve("org/model@step7")


@pytest.mark.parametrize("revision", ["refs/pr/2", "main", "step1000", "stage1-step-40000", "v1.0+cu", "a" * 40])
def test_names_of_revisions_are_taken(revision):
    hub.require_revision(revision)


@pytest.mark.parametrize("revision", [
    "", "..", "../x", "refs/../x", "/etc", "refs//pr", "refs/pr/", ".git", "refs/.pr/2", "-x", "a b", "a\n", "a..b",
])  # fmt: skip
def test_what_is_no_revision_or_leads_out_of_the_cache_is_refused(site, folder, revision):
    site.add("org/model", folder)
    with pytest.raises(ValueError, match="is no revision; give a branch, a tag or a commit"):
        hub.look("org/model", revision)
    assert not site.asked


# --- pickles ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def pickled(folder, tmp_path):
    """The model with its weights pickled, beside a state of its trainer, which is no weight."""
    made = shutil.copytree(folder, tmp_path / "pickled")
    torch.save(load_file(made / "model.safetensors"), made / "pytorch_model.bin")
    torch.save({"epoch": torch.ones(2)}, made / "training_args.bin")
    (made / "model.safetensors").unlink()
    return made


def test_a_model_of_pickles_only_is_refused_before_anything_is_fetched_and_its_converted_copy_is_named(
    site, folder, pickled
):
    site.add("org/model", pickled)
    site.add("org/model", tiny.build("llama", folder.parent / "others", TEXT, 3), "refs/pr/1")
    converted = site.add("org/model", folder, "refs/pr/2")
    site.authors = {("org/model", 1): "somebody", ("org/model", 2): "SFconvertbot"}
    with pytest.raises(FileNotFoundError) as refused:
        checkpoints.resolve("org/model")
    assert str(refused.value) == (
        "org/model: its weights on the Hub are pickles only (*.bin), which can run code when they are read; give "
        "org/model@refs/pr/2, where the Hub's converter put a copy in safetensors, or give --allow-pickle if you trust "
        "who published them."
    )
    assert not [path for _, path in site.asked if "/resolve/" in path]
    found = checkpoints.resolve("org/model@refs/pr/2")
    assert (found.name, found.revision) == ("org/model@refs/pr/2", converted)
    loaded = backends.load("transformers", found, "cpu").reader.model.get_input_embeddings().weight
    assert torch.equal(loaded, load_file(folder / "model.safetensors")["model.embed_tokens.weight"])


def test_without_a_converted_copy_the_sentence_says_where_one_would_be(site, pickled):
    site.add("org/model", pickled)
    site.authors = {("org/model", 3): "SFconvertbot"}  # of which nothing is left
    with pytest.raises(
        FileNotFoundError, match=re.escape("(org/model@refs/pr/N where somebody converted them; none was")
    ):
        checkpoints.resolve("org/model")


def test_a_model_of_the_table_is_had_from_a_pull_request(site, folder, pickled, monkeypatch):
    site.add("google/t5-v1_1-base", pickled)
    commit = site.add("google/t5-v1_1-base", folder, "refs/pr/2")
    found = checkpoints.resolve("t5-base@refs/pr/2")
    assert (found.name, found.revision, found.hub_id) == ("t5-base@refs/pr/2", commit, "google/t5-v1_1-base")
    assert main(["models", "pin", "t5-base@refs/pr/2", "t5-base"]) == 0
    assert set(hub.pinned()) == {"t5-base@refs/pr/2", "t5-base"}
    site.add("google/t5-v1_1-base", tiny.build("llama", folder.parent / "later", TEXT, 4), "refs/pr/2")
    assert checkpoints.resolve("t5-base@refs/pr/2").revision == commit
    assert hub.heads("google/t5-v1_1-base") == {"main": hub.pinned()["t5-base"]["commit"]}
    assert "refs/pr/2" in hub.heads("google/t5-v1_1-base", pull_requests=True)
    (seen,) = sources.list_checkpoints(str(_list(folder.parent / "list.txt", "t5-base@refs/pr/2")))
    assert seen.model == "t5-base@refs/pr/2"
    with pytest.raises(ValueError, match="t5-base@refs/pr/9 is not among"):
        sources.list_checkpoints(str(_list(folder.parent / "list.txt", "t5-base@refs/pr/9")))
    assert [one.model for one in sources.list_checkpoints("t5-base")] == ["t5-base@main"]


def _list(file, name):
    file.write_text(f"{name}\n")
    return file


def test_pickles_of_the_hub_are_fetched_alone_and_read_where_they_are_allowed(site, folder, pickled):
    site.add("org/model", pickled)
    found = checkpoints.resolve("org/model", allow_pickle=True)
    local = load_file(folder / "model.safetensors")
    assert found.n_parameters == sum(tensor.numel() for tensor in local.values())  # no table says it: they were counted
    with pytest.raises(ValueError, match="pickle"):
        backends.load("transformers", found, "cpu")
    weights = backends.load("transformers", found, "cpu", allow_pickle=True).reader.model.state_dict()
    assert torch.equal(weights["model.embed_tokens.weight"], local["model.embed_tokens.weight"])
    fetched = {path.name for path in Path(found.folder).iterdir()}
    assert "pytorch_model.bin" in fetched
    assert "training_args.bin" not in fetched


def test_pickles_beside_safetensors_are_not_fetched(site, folder):
    torch.save({"not": torch.ones(1)}, folder / "pytorch_model.bin")
    site.add("org/model", folder)
    ready = checkpoints.with_weights(checkpoints.resolve("org/model", allow_pickle=True), allow_pickle=True)
    assert not list(Path(ready.folder).glob("*.bin"))


def test_a_model_of_the_table_that_is_pickled_has_its_nominal_size_until_it_is_loaded(site, pickled):
    site.add("google/t5-v1_1-base", pickled)
    found = checkpoints.resolve("t5-base", allow_pickle=True)
    assert found.n_parameters == 250_000_000
    assert not list(Path(found.folder).glob("*.bin"))


def test_pickles_in_other_folders_and_of_other_libraries_are_no_weights_and_no_ground_to_refuse(site, folder):
    (folder / "onnx").mkdir()
    (folder / "tf_model.bin").write_bytes(b"x")
    (folder / "optimizer.bin").write_bytes(b"x")
    site.add("org/model", folder)
    assert checkpoints.resolve("org/model").n_parameters


def test_what_the_hub_refuses_is_said_in_a_sentence_and_without_the_token(site, folder):
    site.add("org/gated", folder)
    site.gated.add("org/gated")
    with pytest.raises(FileNotFoundError, match="org/gated is gated: ask for access") as gated:
        checkpoints.resolve("org/gated")
    with pytest.raises(FileNotFoundError, match="org/nowhere is not on the Hub, or is private") as absent:
        checkpoints.resolve("org/nowhere")
    assert TOKEN not in f"{gated.value} {absent.value}"


def test_without_a_network_what_is_in_the_cache_is_found(site, folder, monkeypatch):
    commit = site.add("org/model", folder)
    found = checkpoints.with_weights(checkpoints.resolve("org/model"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    n = len(site.asked)
    again = checkpoints.resolve("org/model")
    assert (again.revision, again.n_parameters) == (commit, found.n_parameters)
    assert len(site.asked) == n
    with pytest.raises(FileNotFoundError, match="not in the cache"):
        checkpoints.resolve("org/other")


def test_a_difference_is_added_to_its_base_of_its_own_commit(site, folder, tmp_path, monkeypatch):
    base = load_file(folder / "model.safetensors")
    delta = tiny.build("llama", tmp_path / "delta", TEXT, 5)
    change = {name: torch.full_like(tensor, 0.25) for name, tensor in base.items()}
    save_file(change, delta / "model.safetensors", metadata={"format": "pt"})
    commits = site.add("org/base", folder), site.add("org/delta", delta)
    made = {
        "base": Entry("base", "org/base", "llama"),
        "tuned": Entry("tuned", "org/delta", "llama", tuned_from="base", delta_of="base"),
    }
    monkeypatch.setattr(model_table, "MODELS", made)
    found = checkpoints.resolve("tuned")
    assert found.revision == f"{commits[1]}+{commits[0]}"
    assert (found.tuned_from, found.base_hub_id) == ("base", "org/base")
    weights = backends.load("transformers", found, "cpu").reader.model.get_input_embeddings().weight
    np.testing.assert_allclose(weights.detach().numpy(), base["model.embed_tokens.weight"].numpy() + 0.25, atol=1e-6)


def test_an_adapter_is_merged_onto_its_base_each_of_its_own_commit(site, folder, tmp_path):
    """Its base is the revision that adapter_config.json states; weights of both come when the model is loaded."""
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
    found = checkpoints.resolve("org/lora")
    assert found.revision == f"{commits[1]}+{commits[0]}"
    assert (found.name, found.tuned_from, found.pair_source) == ("org/lora", "org/base@v1", "adapter")
    assert (found.hub_id, found.base_hub_id) == ("org/lora", "org/base")
    assert found.n_parameters == checkpoints.resolve(str(folder)).n_parameters
    assert not list(Path(found.folder).glob("*.safetensors"))
    assert not list(Path(found.base_folder).glob("*.safetensors"))
    key = "model.layers.0.self_attn.q_proj.weight"
    loaded = backends.load("transformers", found, "cpu").reader.model.state_dict()[key]
    merged = wrapped.merge_and_unload().state_dict()[key]
    np.testing.assert_allclose(loaded.numpy(), merged.numpy(), atol=1e-6)
    assert not np.allclose(loaded.numpy(), load_file(folder / "model.safetensors")[key].numpy(), atol=1e-3)


def test_scales_of_quantised_weights_on_the_hub_are_no_parameters(site, folder):
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


def test_a_lock_that_is_none_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models.lock").write_text('{"m": {"commit": ""}}')
    with pytest.raises(ValueError, match=r"models\.lock is no lock"):
        hub.pinned()
