"""What a checkpoint or a stranger must not be able to do: by default, whatever a user forgets to say."""

from __future__ import annotations

import ast
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import ray

from harness.runs import ray_session

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted(path for folder in ("harness", "kernels", "jobs") for path in (ROOT / folder).rglob("*.py"))


@pytest.fixture
def checkpoint(shared, tmp_path):
    """A sound one, to be made dangerous."""
    folder = tmp_path / "model"
    folder.mkdir()
    for file in (shared / "models" / "stories260K").iterdir():
        shutil.copyfile(file, folder / file.name)
    return folder


def run(folder, out, *options):
    command = [sys.executable, "-m", "harness.cli", "run", "quickstart", "--model", str(folder), "--protocol", "strict",
               "--dataset", "synthetic-reading", "--no-untrained", "--out", str(out), "--json", *options]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


class Trap:
    """Unpickled, it leaves a trace."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


def test_a_pickled_checkpoint_is_refused_and_nothing_in_it_runs(checkpoint, tmp_path):
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(tmp_path / "trace")))
    said = run(checkpoint, tmp_path / "out")
    assert said.returncode == 2
    assert "are pickles only (*.bin), which can run code when they are read; convert them to safetensors" in said.stderr
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("kind", ["a kind of its own", "a kind that is known"])
def test_code_that_a_checkpoint_brings_is_not_run(checkpoint, tmp_path, kind):
    """With `auto_map`, which transformers follows where remote code is trusted; there is no option that trusts it."""
    config = json.loads((checkpoint / "config.json").read_text())
    config |= {
        "auto_map": {"AutoConfig": "evil.Config", "AutoModel": "evil.Model", "AutoModelForCausalLM": "evil.Model"}
    }
    config |= {"model_type": "evil"} if kind == "a kind of its own" else {}
    (checkpoint / "config.json").write_text(json.dumps(config))
    settings = json.loads((checkpoint / "tokenizer_config.json").read_text())
    settings["auto_map"] = {"AutoTokenizer": ["evil.Tokenizer", None]}
    (checkpoint / "tokenizer_config.json").write_text(json.dumps(settings))
    trace = f"from pathlib import Path\nPath({str(tmp_path / 'trace')!r}).touch()\nclass Config: pass\n"
    (checkpoint / "evil.py").write_text(trace)
    said = run(checkpoint, tmp_path / "out")
    assert not (tmp_path / "trace").exists()
    if kind == "a kind of its own":
        assert said.returncode == 2
        assert "has no model_type 'evil'" in said.stderr
    else:  # our own library's model of that kind reads it
        assert not json.loads(said.stdout)["failures"]
    assert "trust_remote_code" not in said.stderr


def test_remote_code_is_trusted_nowhere():
    """Every call that could is told not to, and no option of the command says otherwise."""
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
                assert isinstance(node.value, ast.Constant), path
                assert node.value.value is False, path
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if called.startswith("Auto") and called.endswith(("from_pretrained", "from_config")):
                assert "trust_remote_code" in {keyword.arg for keyword in node.keywords}, f"{path}: {called}"


def test_nothing_is_unpickled_but_tensors_and_by_the_reader_that_runs_no_code():
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                called, said = ast.unparse(node.func), ast.unparse(node)
                assert not called.startswith(("pickle.load", "cloudpickle.load", "joblib.load", "dill.load")), path
                assert called != "torch.load" or "weights_only=True" in said, path
                assert called != "np.load" or "allow_pickle=True" not in said, path


def listening(pids):
    """Addresses at which processes listen."""
    found = psutil.net_connections("tcp")
    return {one.laddr.ip for one in found if one.status == psutil.CONN_LISTEN and one.pid in pids}


def test_ray_on_this_machine_listens_on_loopback_alone_and_refuses_who_has_not_its_token(tmp_path):
    ray.shutdown()
    ray_session.start(None)
    try:
        ray.get(ray.remote(lambda: None).remote())  # a worker too
        ours = {os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True))}
        assert listening(ours) <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}
        assert not ray._private.worker.global_worker.node.address_info.get("webui_url")
        address = ray.get_runtime_context().gcs_address
        env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        env |= {"HOME": str(tmp_path), "RAY_AUTH_TOKEN": "wrong", "RAY_AUTH_MODE": "token"}
        env |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}  # by which it looks for the nodes where they listen
        script = f"import ray; ray.init({address!r}, logging_level='ERROR'); print('let in')"
        said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, env=env)
        assert said.returncode != 0
        assert "let in" not in said.stdout
    finally:
        session = Path(ray._private.worker._global_node.get_session_dir_path())
        assert session.is_dir()
        ray_session.leave()
    assert not session.exists()
    _, alive = psutil.wait_procs([psutil.Process(pid) for pid in ours - {os.getpid()} if psutil.pid_exists(pid)], 10)
    assert not alive
