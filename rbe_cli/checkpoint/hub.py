"""Downloads a checkpoint from the Hugging Face hub, or finds it in the hub's local cache.

The library honours HF_HOME, HF_HUB_OFFLINE, HF_ENDPOINT and HF_TOKEN; it resumes a download
whose connection breaks, and keeps the files that are complete if the program ends.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils.tqdm import tqdm

from rbe_cli.checkpoint.tokenizer_files import TOKENIZER_FILES, has_tokenizer
from rbe_cli.checkpoint.weight_files import weights_in_folder
from rbe_cli.errors import NotFoundError, OfflineError, RbeError
from rbe_cli.progress import Progress

_SMALL_FILES = ("config.json", "generation_config.json", *TOKENIZER_FILES)
# The second kind is only downloaded from a repository that lacks the first.
_WEIGHT_PATTERNS = (
    ("model.safetensors", "model.safetensors.index.json", "model-*.safetensors"),
    ("pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*.bin"),
)


def fetch(repo: str, revision: str | None, *, offline: bool, progress: Progress | None) -> Path:
    """A folder with a repository's config, weights and tokenizer, in Hugging Face layout.

    The cache comes first: the network is used only if a file is missing there.

    Args:
        repo: `gpt2` or `org/name`.
        revision: a branch, tag or commit; None for the main branch.
        offline: never use the network.
        progress: called during a download with the model's name, the bytes done, and the bytes
            in total (which grow as files are begun); from other threads, but one at a time.

    Raises:
        NotFoundError: there is no such repository or revision, or it has no weights.
        OfflineError: files are missing in the cache, and cannot be downloaded.
    """
    name = repo if revision is None else f"{repo}@{revision}"
    with hub_errors(name):
        cached = _find_in_cache(repo, revision)
        if cached is not None and (offline or has_tokenizer(cached)):
            return cached
        if offline:
            raise OfflineError(f"{name} is no local path, not in the cache, and offline")
        folder = _snapshot(repo, revision, tqdm_class=reporting_bar(name, progress))
        if folder is None:
            raise NotFoundError(f"{name} has neither model.safetensors nor pytorch_model.bin")
        return folder


def _find_in_cache(repo: str, revision: str | None) -> Path | None:
    """The cached snapshot with weights, and perhaps a tokenizer; None if there is none."""
    try:
        return _snapshot(repo, revision, local_files_only=True)
    except LocalEntryNotFoundError:
        return None


def _snapshot(repo: str, revision: str | None, **options: Any) -> Path | None:
    """`snapshot_download` of what is needed; None if the repository has no weights."""
    for patterns in _WEIGHT_PATTERNS:
        wanted = [*_SMALL_FILES, *patterns]
        folder = Path(snapshot_download(repo, revision=revision, allow_patterns=wanted, **options))
        try:
            weights_in_folder(folder)
        except NotFoundError:
            continue
        return folder
    return None


@contextmanager
def hub_errors(name: str) -> Iterator[None]:
    """Turn the library's errors into ours, naming the model."""
    try:
        yield
    except RbeError:
        raise
    except HFValidationError as error:
        raise NotFoundError(f"{name[:200]!r} is neither an existing path nor a hub id") from error
    except RevisionNotFoundError as error:
        raise NotFoundError(f"{name}: the hub has the model, but not this revision") from error
    except RepositoryNotFoundError as error:
        raise NotFoundError(
            f"{name} is no local path and not on the hub (a private model needs HF_TOKEN)"
        ) from error
    except LocalEntryNotFoundError as error:
        raise OfflineError(
            f"{name} is no local path, not in the cache, and the hub cannot be reached"
        ) from error
    except Exception as error:  # what the library's HTTP client raises has no common base
        raise OfflineError(f"{name} could not be downloaded: {error!r}") from error


def reporting_bar(name: str, progress: Progress | None) -> type[tqdm]:
    """A progress bar for the library that draws nothing, and reports the bytes on disk."""

    class ReportingBar(tqdm):
        def __init__(self, *args: Any, **options: Any) -> None:
            # Of the library's bars, this one counts the bytes of all files together.
            self._counts_bytes = options.get("name") == "huggingface_hub.snapshot_download"
            initialise: Callable[..., None] = super().__init__
            initialise(*args, **{**options, "disable": True})

        def update(self, n: float | None = 1) -> None:
            if progress is not None and self._counts_bytes:
                with self.get_lock():
                    self.n += n or 0
                    progress(name, int(self.n), int(self.total or 0))

    return ReportingBar
