"""Tests that a checkpoint cannot run code and that other users cannot join the local Ray, with default options."""

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

pytestmark = pytest.mark.ray

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted(path for folder in ("harness", "kernels", "jobs") for path in (ROOT / folder).rglob("*.py"))


@pytest.fixture
def checkpoint(shared, tmp_path):
    """A valid checkpoint, which the tests make malicious."""
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
    """Creates a file when it is unpickled."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


@pytest.mark.slow
def test_a_pickled_checkpoint_is_refused_without_running_its_code(checkpoint, tmp_path):
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(tmp_path / "trace")))
    result = run(checkpoint, tmp_path / "out")
    assert result.returncode == 2
    assert (
        "are pickles only (*.bin), which can run code when they are read; convert them to safetensors" in result.stderr
    )
    assert not (tmp_path / "trace").exists()


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("model_type", ["own", "known"])
def test_code_in_a_checkpoint_is_not_run(checkpoint, tmp_path, model_type):
    """transformers imports the code named in `auto_map` if remote code is trusted; no option allows that."""
    config = json.loads((checkpoint / "config.json").read_text())
    config |= {
        "auto_map": {"AutoConfig": "evil.Config", "AutoModel": "evil.Model", "AutoModelForCausalLM": "evil.Model"}
    }
    config |= {"model_type": "evil"} if model_type == "own" else {}
    (checkpoint / "config.json").write_text(json.dumps(config))
    settings = json.loads((checkpoint / "tokenizer_config.json").read_text())
    settings["auto_map"] = {"AutoTokenizer": ["evil.Tokenizer", None]}
    (checkpoint / "tokenizer_config.json").write_text(json.dumps(settings))
    trace = f"from pathlib import Path\nPath({str(tmp_path / 'trace')!r}).touch()\nclass Config: pass\n"
    (checkpoint / "evil.py").write_text(trace)
    result = run(checkpoint, tmp_path / "out")
    assert not (tmp_path / "trace").exists()
    if model_type == "own":
        assert result.returncode == 2
        assert "has no model_type 'evil'" in result.stderr
    else:  # transformers' own class for this model type is used
        assert not json.loads(result.stdout)["failures"]
    assert "trust_remote_code" not in result.stderr


def test_no_call_trusts_remote_code():
    """Every from_pretrained and from_config call of an Auto class passes trust_remote_code=False."""
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
                assert isinstance(node.value, ast.Constant), path
                assert node.value.value is False, path
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if called.startswith("Auto") and called.endswith(("from_pretrained", "from_config")):
                assert "trust_remote_code" in {keyword.arg for keyword in node.keywords}, f"{path}: {called}"


def test_only_tensors_are_unpickled_and_only_with_weights_only():
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                called, call = ast.unparse(node.func), ast.unparse(node)
                assert not called.startswith(("pickle.load", "cloudpickle.load", "joblib.load", "dill.load")), path
                assert called != "torch.load" or "weights_only=True" in call, path
                assert called != "np.load" or "allow_pickle=True" not in call, path


def listening(pids):
    """IP addresses on which these processes listen."""
    connections = psutil.net_connections("tcp")
    return {item.laddr.ip for item in connections if item.status == psutil.CONN_LISTEN and item.pid in pids}


@pytest.mark.slow
def test_local_ray_listens_only_on_loopback_and_requires_its_token(tmp_path):
    ray.shutdown()
    earlier = set(psutil.Process().children(recursive=True))
    ray_session.start(None)
    try:
        ray.get(ray.remote(lambda: None).remote())  # start a worker as well
        ours = {os.getpid(), *(child.pid for child in {*psutil.Process().children(recursive=True)} - earlier)}
        assert listening(ours) <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}
        assert not ray._private.worker.global_worker.node.address_info.get("webui_url")
        address = ray.get_runtime_context().gcs_address
        env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        env |= {"HOME": str(tmp_path), "RAY_AUTH_TOKEN": "wrong", "RAY_AUTH_MODE": "token"}
        env |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}  # so that the client looks for nodes on loopback
        script = f"import ray; ray.init({address!r}, logging_level='ERROR'); print('connected')"
        result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, env=env)
        assert result.returncode != 0
        assert "connected" not in result.stdout
    finally:
        session = Path(ray._private.worker._global_node.get_session_dir_path())
        assert session.is_dir()
        ray_session.leave()
    assert not session.exists()
    _, alive = psutil.wait_procs([psutil.Process(pid) for pid in ours - {os.getpid()} if psutil.pid_exists(pid)], 10)
    assert not alive, [(process, process.cmdline(), process.parents()) for process in alive]
