"""Checkpoints on the Hugging Face Hub: a name's commit, its small files, its size, and, later, its weights.

To plan a run nothing but configuration, tokenizer and the headers of the weights is fetched. The weights come where
they are loaded, of exactly that commit. Two processes that fetch the same wait for each other (huggingface_hub locks).
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness import headers, quantization
from harness.models import Entry
from harness.safetensors_file import Stored

SMALL = ["*.json", "*.model", "merges.txt", "vocab.txt", "chat_template.jinja", "README.md"]
# Some repositories have the same weights twice, in the form of another library.
_TWICE = ["consolidated*", "original/*", "*.onnx", "flax_*", "tf_*"]


@dataclass(frozen=True)
class Snapshot:
    """A revision of a repository. n_parameters: numbers in its safetensors; 0 where they cannot be looked at."""

    folder: str
    commit: str
    n_parameters: int = 0


def look(hub_id: str, revision: str = "main") -> Snapshot:
    """Resolve a revision to a commit and fetch its small files, or find them in the cache.

    Raises:
        FileNotFoundError: in words, if the repository or the revision is not there, is gated, or cannot be reached.
    """
    from huggingface_hub import snapshot_download

    with _explained(hub_id, revision):
        folder = Path(snapshot_download(hub_id, revision=revision, allow_patterns=SMALL, ignore_patterns=_TWICE))
    return Snapshot(str(folder), folder.name, _n_parameters(hub_id, folder))


def fetch(hub_id: str, commit: str, allow_pickle: bool = False) -> str:
    """Fetch the weights of a commit beside its small files; gives their folder. What is there is not fetched again.

    Raises:
        FileNotFoundError: as `look`.
    """
    from huggingface_hub import snapshot_download

    wanted = [*SMALL, "*.safetensors", *(["*.bin"] if allow_pickle else [])]
    with _explained(hub_id, commit):
        return str(snapshot_download(hub_id, revision=commit, allow_patterns=wanted, ignore_patterns=_TWICE))


def refs(hub_id: str) -> list[str]:
    """Branches and tags of a repository, as its publisher named them."""
    return list(heads(hub_id))


def heads(hub_id: str) -> dict[str, str]:
    """Branches and tags of a repository, each with its commit at this moment.

    Raises:
        FileNotFoundError: as `look`.
    """
    from huggingface_hub import HfApi

    with _explained(hub_id, "main"):
        found = HfApi().list_repo_refs(hub_id)
    return {ref.name: str(ref.target_commit) for ref in (*found.branches, *found.tags)}


def _n_parameters(hub_id: str, folder: Path) -> int:
    """By the headers of the safetensors, which are fetched alone; 0 offline, or where there are none."""
    from huggingface_hub import get_safetensors_metadata

    try:
        found = get_safetensors_metadata(hub_id, revision=folder.name)
    except Exception:  # noqa: BLE001 - not there, or not to be reached: the size is not known yet
        return 0
    tensors = (
        {key: Stored(info.dtype, tuple(info.shape)) for key, info in file.tensors.items()}
        for file in found.files_metadata.values()
    )
    config = folder / "config.json"
    settings = quantization.stated(headers.read_json(config, hub_id)) if config.is_file() else {}
    return headers.count(tensors, settings)


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
        raise FileNotFoundError(
            f"{hub_id} has no revision {revision!r}; `harness models checkpoints NAME` lists those of a training run."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise FileNotFoundError(
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
        found = look(entry.hub_id, entry.revision)
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
