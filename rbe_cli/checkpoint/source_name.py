"""Parse what a user writes for a source: a path, a hub id or a hub address."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from rbe_cli.errors import NotFoundError

_FILE_SUFFIXES = (".safetensors", ".bin", ".json", ".pt", ".pth", ".ckpt", ".gguf", ".rbe", ".h5")
_HUB_HOSTS = ("huggingface.co", "www.huggingface.co", "hf.co")
_CACHED_MODEL = re.compile(r"models--(?P<repo>[^/\\]+)")


@dataclass(frozen=True)
class HubName:
    """Name a model on the hub.

    Attributes:
        repo: `gpt2` or `org/name`.
        revision: a branch, tag or commit; None for the main branch.
    """

    repo: str
    revision: str | None = None

    def __str__(self) -> str:
        return self.repo if self.revision is None else f"{self.repo}@{self.revision}"


def is_local(source: str) -> bool:
    """Return whether a source exists on this machine, or is written like a path."""
    return (
        os.path.lexists(source)
        or source.startswith((".", "/", "~"))
        or ("://" not in source and source.endswith(_FILE_SUFFIXES))
    )


def hub_name(source: str) -> HubName:
    """Return the model that `org/name@revision` or an address of the hub means.

    Raises:
        NotFoundError: it is the address of something else.
    """
    if "://" not in source and not source.startswith(tuple(f"{host}/" for host in _HUB_HOSTS)):
        repo, _, revision = source.partition("@")
        return HubName(repo, revision or None)
    address = urlsplit(source if "://" in source else f"https://{source}")
    if address.scheme == "hf":
        inside = (address.netloc + address.path).removeprefix("models/")
        repo, _, revision = inside.strip("/").partition("@")
        return HubName(repo, revision or None)
    if address.hostname not in (*_HUB_HOSTS, _own_hub()):
        raise NotFoundError(
            f"{source} is not an address of the Hugging Face hub: download the checkpoint, and "
            "give its folder"
        )
    return _of_address(source, [unquote(part) for part in address.path.split("/") if part])


def public_name(source: str) -> str:
    """Return how a written file may call a source: without folders of this machine.

    A path becomes its last part, and one into the hub's cache the model's name there.
    """
    if source == "demo" or not is_local(source):
        return source if "://" not in source else str(hub_name(source))
    path = os.path.abspath(source)
    if models := _CACHED_MODEL.findall(path):
        return models[-1].replace("--", "/")
    return Path(path).name or "checkpoint"


def _own_hub() -> str | None:
    """Return the host of the hub that the environment names instead of the usual one."""
    return urlsplit(os.environ.get("HF_ENDPOINT", "")).hostname


def _of_address(source: str, parts: list[str]) -> HubName:
    """Return the model of an address's path: `[org/]name[/tree|blob|resolve/revision[/file]]`."""
    if parts[:1] and parts[0] in ("datasets", "spaces"):
        raise NotFoundError(f"{source} is the address of a {parts[0][:-1]}, not of a model")
    routes = [i for i, part in enumerate(parts) if part in ("tree", "blob", "resolve", "commit")]
    end = next((i for i in routes if i in (1, 2)), min(len(parts), 2))
    if not parts or end == 0:
        raise NotFoundError(f"{source} names no model of the hub")
    revision = parts[end + 1] if len(parts) > end + 1 else None
    return HubName("/".join(parts[:end]), revision if revision != "main" else None)
