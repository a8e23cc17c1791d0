"""These tests run where vLLM is: `make test-vllm` makes such a place, and fails where it cannot."""

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("vllm") else ["*"]
