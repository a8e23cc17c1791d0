"""Version of the program where there is no checkout."""

import subprocess
from importlib.metadata import version

from harness.storage import origin


def test_in_an_image_the_commit_is_that_of_the_build(monkeypatch):
    def no_git(*_, **__):
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", no_git)
    release = version("brain-alignment-harness")
    monkeypatch.setenv("HARNESS_COMMIT", "0123456789")
    assert origin.code_version.__wrapped__() == f"{release}+0123456789"
    monkeypatch.setenv("HARNESS_COMMIT", "")
    assert origin.code_version.__wrapped__() == release
