"""These tests need vLLM: `make test-vllm` installs it into an environment of its own, and fails if it cannot."""

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("vllm") else ["*"]
