"""What is sent to a cluster, and what is not."""

import subprocess

import pytest

from harness.packing import pack


@pytest.fixture
def project(tmp_path):
    folder = tmp_path / "project"
    inside = (
        "harness/cli.py", "jobs/evaluate.py", "models.toml", "big.txt", "weights/model.safetensors", ".env",
        "auth_token", ".venv/bin/python", "harness/__pycache__/cli.pyc", "results/units/a/manifest.json",
    )  # fmt: skip
    for name in inside:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    (tmp_path / "outside.txt").write_text("secret")
    (folder / "link.txt").symlink_to(tmp_path / "outside.txt")
    return folder


def names_in(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("with_git", [False, True])
def test_code_goes_and_data_caches_and_secrets_stay(project, tmp_path, with_git):
    wanted = {"harness/cli.py", "jobs/evaluate.py", "models.toml", "big.txt"}
    if with_git:
        (project / ".gitignore").write_text("big.txt\n")
        subprocess.run(["git", "init", "-q", str(project)], check=True)
        wanted -= {"big.txt"}
    packed = pack(project, tmp_path / "sent")
    assert names_in(tmp_path / "sent") == wanted
    assert packed.n_files == len(wanted)
    assert packed.n_bytes == sum((project / name).stat().st_size for name in wanted)


def test_too_much_is_refused_before_anything_is_copied_and_the_largest_is_named(project, tmp_path):
    with (project / "big.txt").open("wb") as stream:
        stream.truncate(3 * 10**6)
    with pytest.raises(ValueError, match=r"3\.0 MB to send in 4 files.*big\.txt \(3\.0 MB\).*\.gitignore"):
        pack(project, tmp_path / "sent", limit_bytes=10**6)
    assert not (tmp_path / "sent").exists()
