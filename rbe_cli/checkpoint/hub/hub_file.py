"""Download one `.rbe` file from the Hugging Face hub, or find it in the hub's local cache."""

from collections.abc import Iterable
from glob import escape
from pathlib import Path, PurePosixPath

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.constants import HF_HUB_OFFLINE
from huggingface_hub.errors import LocalEntryNotFoundError

from rbe_cli.checkpoint.hub.hub_download import hub_errors, reporting_bar
from rbe_cli.errors import NotFoundError, OfflineError
from rbe_cli.progress import Progress

SUFFIX = ".rbe"


def fetch_rbe(
    repo: str,
    file: str | None,
    revision: str | None,
    *,
    offline: bool,
    progress: Progress | None,
) -> Path:
    """Return the path of a repository's `.rbe` file in the local cache.

    The cache comes first: the network is used only if the file is missing there.

    Args:
        repo: `org/name`.
        file: the file's path in the repository; None if it is the only one.
        revision: a branch, tag or commit; None for the main branch.
        offline: never use the network.
        progress: called during a download, as by `hub.fetch`.

    Raises:
        NotFoundError: there is no such repository, revision or file, or `file` is None and the
            repository has several.
        OfflineError: the file is not in the cache, and cannot be downloaded.
    """
    name = repo if revision is None else f"{repo}@{revision}"
    with hub_errors(name):
        cached = _find_in_cache(repo, file, revision, name)
        if cached is not None:
            return cached
        if offline or HF_HUB_OFFLINE:
            wanted = name if file is None else f"{file} of {name}"
            raise OfflineError(f"{wanted} is no local path, not in the cache, and offline")
        chosen = _choose(HfApi().list_repo_files(repo, revision=revision), file, name)
        folder = snapshot_download(
            repo,
            revision=revision,
            allow_patterns=escape(chosen),
            tqdm_class=reporting_bar(name, progress),
        )
    return Path(folder, chosen)


def _find_in_cache(repo: str, file: str | None, revision: str | None, name: str) -> Path | None:
    """Return the file of the cached snapshot; None if it has none, or there is no snapshot."""
    try:
        # No pattern: a snapshot that lacks other files is whole enough.
        folder = Path(
            snapshot_download(repo, revision=revision, allow_patterns=[], local_files_only=True)
        )
    except LocalEntryNotFoundError:
        return None
    files = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    if file in files or (file is None and any(path.endswith(SUFFIX) for path in files)):
        return folder / _choose(files, file, name)
    return None


def _choose(files: Iterable[str], file: str | None, name: str) -> str:
    """Return the file that was asked for, or the only one with the suffix.

    A server that lies may name files outside of the repository's folder: those do not count.
    """
    choices = sorted(path for path in files if path.endswith(SUFFIX) and _is_inside(path))
    if file in choices:
        return file
    if file is None and len(choices) == 1:
        return choices[0]
    if not choices:
        raise NotFoundError(f"{name} is on the hub, but has no {SUFFIX} file")
    has = f"{name} has {', '.join(choices[:20])}"
    if file is None:
        raise NotFoundError(f"{has}: say which, as in {name.partition('@')[0]}/{choices[0]}")
    raise NotFoundError(f"{has}, but no {file}")


def _is_inside(path: str) -> bool:
    """Return whether a path in a repository stays in it, on every system."""
    parts = PurePosixPath(path).parts
    return ".." not in parts and "/" not in parts and not {"\\", ":"} & set(path)
