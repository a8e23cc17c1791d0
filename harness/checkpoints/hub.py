"""Checkpoints on the Hugging Face Hub: resolve a commit, fetch small files, count parameters, fetch weights, lock file.

Planning fetches only configuration, tokenizer and the headers of the weights. The weights are fetched on the machine
that loads them, at exactly that commit. Concurrent downloads of the same file wait for each other (huggingface_hub
locks).
"""

from __future__ import annotations

import contextlib
import fnmatch
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness.checkpoints import headers, pickles, quantization
from harness.checkpoints.safetensors_file import StoredTensor
from harness.models.model_table import Entry

SMALL = [
    "*.json", "*.model", "*.spm", "*.tiktoken", "merges.txt", "vocab.txt", "bpe.codes", "chat_template.jinja",
    "README.md",
]  # fmt: skip
# Duplicates of the weights in the format of another library.
_DUPLICATES = ["consolidated*", "original/*", "*.onnx", "flax_*", "tf_*"]
# The Hub's conversion service, which opens a pull request with safetensors for repositories that have only pickles.
_CONVERTER = "SFconvertbot"
# Branches, tags, commits and refs/pr/N: valid git names that are also safe as part of a path.
_REVISION = re.compile(r"(?!.*\.\.)(?![./-])[\w.+=@-]+(/(?!\.)[\w.+=@-]+)*")


@dataclass(frozen=True)
class Snapshot:
    """A revision of a repository. n_parameters: numbers in its safetensors; 0 if unknown."""

    folder: str
    commit: str
    n_parameters: int = 0


def resolve_revision(hub_id: str, revision: str = "main", allow_pickle: bool = False, name: str = "") -> Snapshot:
    """Resolve a revision to a commit and fetch its small files, or find them in the cache.

    Args:
        hub_id: repository.
        revision: branch, tag or commit, or "refs/pr/N" for a pull request.
        allow_pickle: whether a model with only pickled weights is accepted.
        name: model name for error messages; the repository's if empty.

    Raises:
        FileNotFoundError: if the repository or revision does not exist, is gated or cannot be reached; or, before
            anything is fetched, if it has only pickled weights and these are not allowed.
        ValueError: if `revision` is not a valid revision name.
    """
    from huggingface_hub import snapshot_download

    require_revision(revision)
    if not allow_pickle:
        _require_safetensors(hub_id, revision, name or hub_id)
    with _explained(hub_id, revision):
        folder = Path(snapshot_download(hub_id, revision=revision, allow_patterns=SMALL, ignore_patterns=_DUPLICATES))
    return Snapshot(str(folder), folder.name, _n_parameters(hub_id, folder))


def require_revision(revision: str) -> None:
    """Raise ValueError if a revision is not a valid git name or would lead out of the cache as a path."""
    if not _REVISION.fullmatch(revision):
        raise ValueError(
            f"{revision!r} is no revision; give a branch, a tag or a commit, such as main, step1000 or refs/pr/2."
        )


def _require_safetensors(hub_id: str, revision: str, name: str) -> None:
    """Raise if a revision has only pickled weights; if the Hub does not list its files, `fetch` reports the reason."""
    if not pickles.has_only_pickles(_top_level_files(hub_id, revision)):
        return
    stem = name.partition("@")[0]
    pull_request = converted(hub_id) if revision == "main" else ""
    way_out = (
        f"use {stem}@{pull_request}, where the Hub's converter put a copy in safetensors"
        if pull_request
        else f"use a revision that has safetensors ({stem}@refs/pr/N if somebody converted them; none was found)"
    )
    raise FileNotFoundError(pickles.refusal(name, "on the Hub", way_out))


def _top_level_files(hub_id: str, revision: str) -> list[str]:
    """List files at the top level of a revision; empty if the Hub does not answer or has no such revision."""
    from huggingface_hub import HfApi

    try:
        siblings = HfApi().model_info(hub_id, revision=revision).siblings or []
    except Exception:  # noqa: BLE001 - fetching the files raises the same error, which is reported then
        return []
    names = (file.rfilename for file in siblings)
    return [name for name in names if "/" not in name and not any(fnmatch.fnmatch(name, glob) for glob in _DUPLICATES)]


def converted(hub_id: str) -> str:
    """Find the pull request in which the Hub's converter added safetensors, as a revision such as "refs/pr/2".

    Returns:
        "" if there is none or the Hub does not answer. Pull requests by others are ignored, since anybody may open one.
    """
    from huggingface_hub import HfApi

    try:
        for discussion in HfApi().get_repo_discussions(hub_id, author=_CONVERTER, discussion_type="pull_request"):
            ref = discussion.git_reference if discussion.author == _CONVERTER else None
            if ref and any(name.endswith(".safetensors") for name in _top_level_files(hub_id, ref)):
                return str(ref)
    except Exception:  # noqa: BLE001 - used only for a suggestion in an error message
        return ""
    return ""


def fetch(hub_id: str, commit: str, allow_pickle: bool = False) -> str:
    """Fetch the weights of a commit beside its small files and return their folder; cached files are not fetched again.

    Pickles are fetched only if they are allowed and there are no safetensors.

    Raises:
        FileNotFoundError: as `look`.
    """
    from huggingface_hub import snapshot_download

    def download(*patterns: str) -> str:
        allowed = [*SMALL, *patterns]
        return str(snapshot_download(hub_id, revision=commit, allow_patterns=allowed, ignore_patterns=_DUPLICATES))

    with _explained(hub_id, commit):
        folder = download("*.safetensors")
        if allow_pickle and not any(Path(folder).glob("*.safetensors")):
            folder = download(*pickles.PATTERNS)
        return folder


def refs(hub_id: str) -> list[str]:
    """List branches and tags of a repository."""
    return list(commits_by_ref(hub_id))


def commits_by_ref(hub_id: str, pull_requests: bool = False) -> dict[str, str]:
    """Return branch or tag -> current commit of a repository, optionally with its pull requests.

    Raises:
        FileNotFoundError: as `look`.
    """
    from huggingface_hub import HfApi

    with _explained(hub_id, "main"):
        repository = HfApi().list_repo_refs(hub_id, include_pull_requests=pull_requests)
    commits = {ref.name: str(ref.target_commit) for ref in (*repository.branches, *repository.tags)}
    return commits | {ref.ref: str(ref.target_commit) for ref in repository.pull_requests or ()}


def _n_parameters(hub_id: str, folder: Path) -> int:
    """Count parameters from the headers of the safetensors, fetching only those; 0 offline or without safetensors."""
    from huggingface_hub import get_safetensors_metadata

    try:
        metadata = get_safetensors_metadata(hub_id, revision=folder.name)
    except Exception:  # noqa: BLE001 - no safetensors or no network: the size is not known yet
        return 0
    tensors = (
        {key: StoredTensor(info.dtype, tuple(info.shape)) for key, info in file.tensors.items()}
        for file in metadata.files_metadata.values()
    )
    config = folder / "config.json"
    settings = quantization.settings_of(headers.read_json(config, hub_id)) if config.is_file() else {}
    return headers.count(tensors, settings)


class NotOnHubError(FileNotFoundError):
    """The Hub has no such repository or revision."""


@contextlib.contextmanager
def _explained(hub_id: str, revision: str) -> Iterator[None]:
    """Turn errors of huggingface_hub into one-sentence messages that never contain a token."""
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise FileNotFoundError(
            f"{hub_id} is gated: ask for access at https://huggingface.co/{hub_id}, then `hf auth login` (or HF_TOKEN)."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise NotOnHubError(
            f"{hub_id} has no revision {revision!r}; `harness models checkpoints NAME` lists those of a training run."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise NotOnHubError(
            f"{hub_id} is not on the Hub, or is private: check the name, or `hf auth login` (or HF_TOKEN)."
        ) from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        raise FileNotFoundError(
            f"cannot fetch {hub_id} from the Hugging Face Hub, and it is not in the cache; without a network, copy the "
            "model's folder here and give its path."
        ) from error
    except OSError as error:
        raise FileNotFoundError(
            f"cannot fetch {hub_id} from the Hugging Face Hub ({type(error).__name__}); try again, or copy the model's "
            "folder here and give its path."
        ) from error


# --- lock file --------------------------------------------------------------------------------------------------------


def lock(file: str | None = None) -> Path:
    """Return the lock file: `file`, else HARNESS_MODELS_LOCK, else models.lock in the working directory of the run."""
    return Path(file or os.environ.get("HARNESS_MODELS_LOCK", "models.lock"))


def pinned(file: str | None = None) -> dict[str, dict[str, Any]]:
    """Read a lock: name -> hub_id, revision, commit, n_parameters and date; empty if there is no lock file.

    Raises:
        ValueError: if the file is not a lock.
    """
    path = lock(file)
    if not path.is_file():
        return {}
    try:
        content: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        if all(locked["commit"] and locked["hub_id"] and locked["revision"] for locked in content.values()):
            return content
    except (ValueError, TypeError, KeyError, AttributeError):
        pass
    raise ValueError(f"{path} is no lock of models; delete it and run `harness models pin` again.")


def commit_of(name: str, entry: Entry) -> str:
    """Return the revision to fetch: the locked commit if name, repository and revision agree, else the revision."""
    locked = pinned().get(name)
    agrees = locked and (locked["hub_id"], locked["revision"]) == (entry.hub_id, entry.revision)
    return str(locked["commit"]) if locked and agrees else entry.revision


def pin(entries: list[Entry], file: str | None = None) -> list[dict[str, Any]]:
    """Resolve each entry's revision now and write the lock; entries of other models are kept.

    Returns:
        One row per model: name, revision, commit, n_parameters, and `was`: "new", "same", or the previous commit.

    Raises:
        FileNotFoundError: for the first model that cannot be resolved; the lock is then unchanged.
    """
    path = lock(file)
    content, rows = pinned(file), []
    for entry in entries:
        # Only the commit is needed, not the weights.
        snapshot = resolve_revision(entry.hub_id, entry.revision, allow_pickle=True)
        before = content.get(entry.name, {}).get("commit")
        content[entry.name] = {
            "hub_id": entry.hub_id, "revision": entry.revision, "commit": snapshot.commit,
            "n_parameters": snapshot.n_parameters or None, "date": datetime.now(UTC).date().isoformat(),
        }  # fmt: skip
        was = "new" if before is None else "same" if before == snapshot.commit else before
        rows.append({"name": entry.name, **content[entry.name], "was": was})
    staging = path.with_name(f".{path.name}.aside")
    staging.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    staging.replace(path)
    return rows
