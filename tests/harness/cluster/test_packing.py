"""Files that are sent to a cluster, and files that are not."""

from pathlib import Path

import pytest

from harness.cluster.packing import pack

SECRETS = (
    ".env", ".env.prod", "auth_token", "id_rsa", "secrets.yaml", "passwords.txt", "prod.pem", "kubeconfig", ".pgpass",
    "service-account.json", "gcp.json", ".dockercfg", "my.keystore", "vault.txt", "hf_token.txt", "wallet.dat",
    ".npmrc", ".pypirc", "api_key.py", "settings.local.py", ".bash_history", "dump.sql", "patients.csv", "cert.p12",
    "harness/.env", "harness/auth_token", "jobs/prod.pem", "kernels/id_ed25519", "harness/secrets.yaml",
)  # fmt: skip


@pytest.fixture
def project(tmp_path):
    folder = tmp_path / "project"
    inside = (
        "harness/__init__.py", "harness/cli/run.py", "harness/report.html.j2", "harness/models.csv", "jobs/__init__.py",
        "jobs/evaluate.py", "models.toml", "big.txt", "weights/model.safetensors", ".venv/bin/python", "README.md",
        "harness/__pycache__/cli.pyc", "results/units/a/manifest.json", "notes.py", *SECRETS,
    )  # fmt: skip
    for name in inside:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    (tmp_path / "outside.py").write_text("secret")
    (folder / "harness" / "link.py").symlink_to(tmp_path / "outside.py")
    (folder / "harness" / "jobs").symlink_to("../jobs")
    return folder


CODE = {"harness/__init__.py", "harness/cli/run.py", "harness/report.html.j2", "harness/models.csv",
        "harness/jobs/__init__.py", "harness/jobs/evaluate.py"}  # fmt: skip


def names_in(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_only_the_programs_code_is_sent(project, tmp_path):
    packed = pack(project, tmp_path / "sent")
    assert names_in(tmp_path / "sent") == CODE
    assert (packed.n_files, packed.n_bytes) == (len(CODE), sum((project / name).stat().st_size for name in CODE))


def test_nothing_is_sent_from_a_folder_without_the_program(project, tmp_path):
    packed = pack(project / "weights", tmp_path / "sent")
    assert packed.n_files == 0


def test_files_given_by_name_are_sent_too(project, tmp_path):
    pack(project, tmp_path / "sent", ("models.toml", str(project / "weights")))
    assert names_in(tmp_path / "sent") == CODE | {"models.toml", "weights/model.safetensors"}


@pytest.mark.parametrize(("name", "message"), [
    ("nosuch.toml", "there is no such file"), ("../outside.py", "it lies outside"), ("harness/link.py", "it lies outs"),
])  # fmt: skip
def test_files_that_are_missing_or_outside_of_the_folder_are_refused(project, tmp_path, name, message):
    with pytest.raises(ValueError, match=rf"--send {name}: {message}"):
        pack(project, tmp_path / "sent", (name,))
    assert not (tmp_path / "sent").exists()


def test_files_over_the_limit_are_refused_before_copying_and_the_largest_are_named(project, tmp_path):
    with (project / "big.txt").open("wb") as stream:
        stream.truncate(3 * 10**6)
    with pytest.raises(ValueError, match=r"3\.0 MB to send in 7 files.*big\.txt \(3\.0 MB\)"):
        pack(project, tmp_path / "sent", ("big.txt",), limit_bytes=10**6)
    assert not (tmp_path / "sent").exists()


def test_all_files_of_this_project_that_a_job_needs_are_sent(tmp_path):
    root = Path(__file__).parents[3]
    pack(root, tmp_path / "sent")
    paths = [path for package in ("harness", "kernels", "jobs") for path in (root / package).rglob("*")]
    not_needed = {".pyc", ".md", ".svg", ".yaml", ".ipynb"}  # pages, and what jobs do not read
    needed = {path.relative_to(root) for path in paths if path.is_file() and path.suffix not in not_needed}
    assert names_in(tmp_path / "sent") == {
        str(path if path.parts[0] == "harness" else "harness" / path) for path in needed
    }
