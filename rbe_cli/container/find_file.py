"""Finds the `.rbe` file that the user names, on this machine or on the Hugging Face hub."""

import os
from pathlib import Path

from rbe_cli.container.header import MAGIC
from rbe_cli.progress import Progress

_SUFFIX = ".rbe"


def find_rbe(name: str, *, offline: bool, progress: Progress | None = None) -> Path:
    """Return the path of the file, after a download if it must be.

    Args:
        name: a path, or `org/name` or `org/name/file.rbe` on the hub, both with `@revision` if
            it is not the main branch. What exists, or is written like a path, is never looked
            for on the hub. Without `file.rbe` it is the only one of the repository.
        offline: never use the network.
        progress: called with the model's name, bytes done and bytes in total during a download.

    Returns:
        The path. A file of this machine need not exist: opening it says what is wrong.

    Raises:
        NotFoundError: the hub has no such repository, revision or file, or several files.
        OfflineError: the file would have to be downloaded, and that is not possible.
    """
    place, _, revision = name.partition("@")
    parts = place.split("/")
    is_file = len(parts) > 2
    if (
        os.path.lexists(name)
        or len(parts) < 2
        or is_file is not place.endswith(_SUFFIX)
        or name.startswith((".", "/", "~"))
        or not set(parts).isdisjoint({"", ".", ".."})
    ):
        return Path(name)
    from rbe_cli.checkpoint.hub.hub_file import fetch_rbe

    repo, file = "/".join(parts[:2]), "/".join(parts[2:]) or None
    return fetch_rbe(repo, file, revision or None, offline=offline, progress=progress)


def names_rbe(source: str) -> bool:
    """Return whether a source is a `.rbe` file, by its name or by how it begins."""
    if source.partition("@")[0].endswith(_SUFFIX):
        return True
    try:
        with open(source, "rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False
