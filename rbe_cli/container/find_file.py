"""Find the `.rbe` file that the user names, on this machine or on the Hugging Face hub."""

import os
from pathlib import Path

from rbe_cli.container.header import MAGIC
from rbe_cli.progress import Progress

_SUFFIX = ".rbe"


def find_rbe(name: str, *, offline: bool, progress: Progress | None = None) -> Path:
    """Return the path of the file, and download it first if it is only on the hub.

    Args:
        name: a path, or `org/name` or `org/name/file.rbe` on the hub, followed by `@revision`
            for another revision than the main branch. A name that exists on this machine, or
            that is written like a path, is not looked up on the hub. `org/name` means the
            only `.rbe` file of the repository.
        offline: whether to refuse to use the network.
        progress: called during a download with the model's name, the bytes received and the
            bytes in total.

    Returns:
        The path. It is not checked here that a file of this machine exists.

    Raises:
        NotFoundError: the hub has no such repository, revision or file, or the repository has
            several files and none is named.
        OfflineError: the file would have to be downloaded, but `offline` is set or the hub
            cannot be reached.
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
    """Return whether a source is a `.rbe` file, by its name or by its first bytes."""
    if source.partition("@")[0].endswith(_SUFFIX):
        return True
    try:
        if not os.path.isfile(source):  # a pipe would be waited for
            return False
        with open(source, "rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except (OSError, ValueError):  # a name with a zero byte is no file's
        return False
