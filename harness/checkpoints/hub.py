"""Checkpoints on the Hugging Face Hub: a name's commit, its small files, its size, and, later, its weights.

To plan a run nothing but configuration, tokenizer and the headers of the weights is fetched. The weights come where
they are loaded, of exactly that commit. Two processes that fetch the same wait for each other (huggingface_hub locks).
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
# Some repositories have the same weights twice, in the form of another library.
_TWICE = ["consolidated*", "original/*", "*.onnx", "flax_*", "tf_*"]
# Who opens a pull request with a copy in safetensors of each repository that has pickles only: the Hub's own service.
_CONVERTER = "SFconvertbot"
# Branches, tags, commits, and refs/pr/N: what git allows as a name, and what is safe as a part of a path.
_REVISION = re.compile(r"(?!.*\.\.)(?![./-])[\w.+=@-]+(/(?!\.)[\w.+=@-]+)*")


@dataclass(frozen=True)
class Snapshot:
    """A revision of a repository. n_parameters: numbers in its safetensors; 0 where they cannot be looked at."""

    folder: str
    commit: str
    n_parameters: int = 0


def look(hub_id: str, revision: str = "main", allow_pickle: bool = False, name: str = "") -> Snapshot:
    """Resolve a revision to a commit and fetch its small files, or find them in the cache.

    Args:
        hub_id: repository.
        revision: branch, tag or commit, or "refs/pr/N" for a pull request.
        allow_pickle: whether weights that are pickles only will do.
        name: of the model, for messages; the repository's where none is given.

    Raises:
        FileNotFoundError: in words, if the repository or the revision is not there, is gated, or cannot be reached; or
            if its weights are pickles only and these are not allowed, before anything is fetched.
        ValueError: if the revision is none.
    """
    from huggingface_hub import snapshot_download

    require_revision(revision)
    if not allow_pickle:
        _require_safetensors(hub_id, revision, name or hub_id)
    with _explained(hub_id, revision):
        folder = Path(snapshot_download(hub_id, revision=revision, allow_patterns=SMALL, ignore_patterns=_TWICE))
    return Snapshot(str(folder), folder.name, _n_parameters(hub_id, folder))


def require_revision(revision: str) -> None:
    """Raise ValueError where a revision is no name that git allows, or would lead out of the cache as a path."""
    if not _REVISION.fullmatch(revision):
        raise ValueError(
            f"{revision!r} is no revision; give a branch, a tag or a commit, such as main, step1000 or refs/pr/2."
        )


def _require_safetensors(hub_id: str, revision: str, name: str) -> None:
    """Raise where all weights of a revision are pickled; what the Hub does not list is told when it is fetched."""
    if not pickles.are_all(_names(hub_id, revision)):
        return
    stem = name.partition("@")[0]
    copy = converted(hub_id) if revision == "main" else ""
    way_out = (
        f"give {stem}@{copy}, where the Hub's converter put a copy in safetensors"
        if copy
        else f"give a revision that has safetensors ({stem}@refs/pr/N where somebody converted them; none was found)"
    )
    raise FileNotFoundError(pickles.refusal(name, "on the Hub", way_out))


def _names(hub_id: str, revision: str) -> list[str]:
    """Files of a revision that stand in no folder; none where the Hub does not answer, or has no such revision."""
    from huggingface_hub import HfApi

    try:
        found = HfApi().model_info(hub_id, revision=revision).siblings or []
    except Exception:  # noqa: BLE001 - fetching the files raises the same error
        return []
    names = (file.rfilename for file in found)
    return [name for name in names if "/" not in name and not any(fnmatch.fnmatch(name, twice) for twice in _TWICE)]


def converted(hub_id: str) -> str:
    """The pull request in which the Hub's converter put a copy in safetensors, as a revision such as "refs/pr/2".

    Returns:
        "" where there is none, or the Hub does not answer. Others' pull requests are not taken: anybody may open one.
    """
    from huggingface_hub import HfApi

    try:
        for found in HfApi().get_repo_discussions(hub_id, author=_CONVERTER, discussion_type="pull_request"):
            ref = found.git_reference if found.author == _CONVERTER else None
            if ref and any(name.endswith(".safetensors") for name in _names(hub_id, ref)):
                return str(ref)
    except Exception:  # noqa: BLE001 - a way out that is not known is not named
        return ""
    return ""


def fetch(hub_id: str, commit: str, allow_pickle: bool = False) -> str:
    """Fetch the weights of a commit beside its small files; gives their folder. What is there is not fetched again.

    Pickles are fetched only where they are allowed and there are no safetensors.

    Raises:
        FileNotFoundError: as `look`.
    """
    from huggingface_hub import snapshot_download

    def bring(*patterns: str) -> str:
        wanted = [*SMALL, *patterns]
        return str(snapshot_download(hub_id, revision=commit, allow_patterns=wanted, ignore_patterns=_TWICE))

    with _explained(hub_id, commit):
        folder = bring("*.safetensors")
        if allow_pickle and not any(Path(folder).glob("*.safetensors")):
            folder = bring(*pickles.PATTERNS)
        return folder


def refs(hub_id: str) -> list[str]:
    """Branches and tags of a repository, as its publisher named them."""
    return list(heads(hub_id))


def heads(hub_id: str, pull_requests: bool = False) -> dict[str, str]:
    """Branches and tags of a repository, each with its commit at this moment; pull requests too where they are wanted.

    Raises:
        FileNotFoundError: as `look`.
    """
    from huggingface_hub import HfApi

    with _explained(hub_id, "main"):
        found = HfApi().list_repo_refs(hub_id, include_pull_requests=pull_requests)
    refs = {ref.name: str(ref.target_commit) for ref in (*found.branches, *found.tags)}
    return refs | {ref.ref: str(ref.target_commit) for ref in found.pull_requests or ()}


def _n_parameters(hub_id: str, folder: Path) -> int:
    """By the headers of the safetensors, which are fetched alone; 0 offline, or where there are none."""
    from huggingface_hub import get_safetensors_metadata

    try:
        found = get_safetensors_metadata(hub_id, revision=folder.name)
    except Exception:  # noqa: BLE001 - not there, or not to be reached: the size is not known yet
        return 0
    tensors = (
        {key: StoredTensor(info.dtype, tuple(info.shape)) for key, info in file.tensors.items()}
        for file in found.files_metadata.values()
    )
    config = folder / "config.json"
    settings = quantization.stated(headers.read_json(config, hub_id)) if config.is_file() else {}
    return headers.count(tensors, settings)


class NotOnHubError(FileNotFoundError):
    """The Hub answers that it has no such repository or revision."""


@contextlib.contextmanager
def _explained(hub_id: str, revision: str) -> Iterator[None]:
    """What the Hub says, in a sentence; a token stands in none."""
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
            f"{hub_id} is not on the Hub, or is private: look at the name, or `hf auth login` (or HF_TOKEN)."
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


# --- the lock ---------------------------------------------------------------------------------------------------------


def lock(file: str | None = None) -> Path:
    """The lock that runs read: HARNESS_MODELS_LOCK, or models.lock in the folder where they begin; or a file given."""
    return Path(file or os.environ.get("HARNESS_MODELS_LOCK", "models.lock"))


def pinned(file: str | None = None) -> dict[str, dict[str, Any]]:
    """Name -> what a lock holds of it: hub_id, revision, commit, n_parameters, date; empty where there is no lock.

    Raises:
        ValueError: if the file is no lock.
    """
    path = lock(file)
    if not path.is_file():
        return {}
    try:
        content: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        if all(each["commit"] and each["hub_id"] and each["revision"] for each in content.values()):
            return content
    except (ValueError, TypeError, KeyError, AttributeError):
        pass
    raise ValueError(f"{path} is no lock of models; remove it, and `harness models pin` writes another.")


def commit_of(name: str, entry: Entry) -> str:
    """What to fetch: the commit of a lock where it holds this name, repository and revision; else the revision."""
    found = pinned().get(name)
    same = found and (found["hub_id"], found["revision"]) == (entry.hub_id, entry.revision)
    return str(found["commit"]) if found and same else entry.revision


def pin(entries: list[Entry], file: str | None = None) -> list[dict[str, Any]]:
    """Resolve each entry's revision now and write the lock; what it held of other models stays.

    Returns:
        One row a model: name, revision, commit, n_parameters, and what it was ("new", "same", or the commit before).

    Raises:
        FileNotFoundError: of the first model that cannot be had; the lock is then as it was.
    """
    path = lock(file)
    held, rows = pinned(file), []
    for entry in entries:
        found = look(entry.hub_id, entry.revision, allow_pickle=True)  # a commit is pinned, no weights are read
        before = held.get(entry.name, {}).get("commit")
        held[entry.name] = {
            "hub_id": entry.hub_id, "revision": entry.revision, "commit": found.commit,
            "n_parameters": found.n_parameters or None, "date": datetime.now(UTC).date().isoformat(),
        }  # fmt: skip
        was = "new" if before is None else "same" if before == found.commit else before
        rows.append({"name": entry.name, **held[entry.name], "was": was})
    aside = path.with_name(f".{path.name}.aside")
    aside.write_text(json.dumps(held, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    aside.replace(path)
    return rows
