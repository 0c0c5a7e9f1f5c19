"""Find a model's snapshots in the local cache of the Hugging Face hub, without the network.

A model's folder `models--ORG--NAME` holds `snapshots/COMMIT/`, whose files are links into
`blobs/`, and `refs/BRANCH`, which holds that branch's commit. What a snapshot holds decides
whether it can be used, not how it came there: a folder that was filled file by file will do.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from rbe_cli.checkpoint.weight_files import missing_weights
from rbe_cli.errors import NotFoundError

_PREFIX = "models--"
_MAIN = "main"
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Snapshot:
    """Describe one commit of a model in the cache.

    Attributes:
        folder: its files, in Hugging Face layout.
        is_asked_for: whether it is what the revision means as far as the cache knows.
        missing: names of files that a checkpoint needs and the folder lacks.
    """

    folder: Path
    is_asked_for: bool
    missing: tuple[str, ...]


def cached_snapshots(model_folder: Path, revision: str | None) -> list[Snapshot]:
    """Return a model's snapshots, the one that is asked for first.

    Args:
        model_folder: the model's folder in the cache; it need not exist.
        revision: a branch, tag or commit; None for the main branch, and then all other
            snapshots follow, the newest first.
    """
    folder = model_folder / "snapshots"
    commit = _commit(model_folder, revision or _MAIN)
    chosen = folder / commit if commit is not None else None
    found = [Snapshot(chosen, True, _missing(chosen))] if chosen and chosen.is_dir() else []
    if revision is None and folder.is_dir():
        others = [path for path in folder.iterdir() if path.is_dir() and path != chosen]
        others.sort(key=lambda path: path.stat().st_mtime, reverse=True)
        found += [Snapshot(path, False, _missing(path)) for path in others]
    return found


def model_folder_name(repo: str) -> str:
    """Return the name of a model's folder in the cache."""
    return _PREFIX + repo.replace("/", "--")


def snapshot_in(path: Path) -> Path | None:
    """Return the snapshot to use of a model's cache folder; None if it is no such folder.

    Raises:
        NotFoundError: it is one, but no snapshot in it is whole.
    """
    folder = path.parent if path.name == "snapshots" else path
    name = folder.resolve().name
    if not (name.startswith(_PREFIX) and (folder / "snapshots").is_dir()):
        return None
    found = cached_snapshots(folder, None)
    for snapshot in found:
        if not snapshot.missing:
            return snapshot.folder
    repo = name.removeprefix(_PREFIX).replace("--", "/")
    lacks = f"lacks {', '.join(found[0].missing)}" if found else "holds no snapshot"
    raise NotFoundError(f"{path} {lacks}: give {repo} instead, which completes it from the hub")


def _commit(model_folder: Path, revision: str) -> str | None:
    """Return the commit that a branch, tag or commit means; None if the cache does not know."""
    if _COMMIT.fullmatch(revision):
        return revision
    try:
        commit = (model_folder / "refs" / revision).read_text().strip()
    except (OSError, ValueError):
        return None
    return commit if _COMMIT.fullmatch(commit) else None


def _missing(folder: Path) -> tuple[str, ...]:
    config = () if (folder / "config.json").is_file() else ("config.json",)
    return (*config, *missing_weights(folder))
