"""Download a checkpoint from the Hugging Face hub, or find it in the hub's local cache.

The library honours HF_HOME, HF_HUB_OFFLINE, HF_ENDPOINT and HF_TOKEN; it resumes a download
whose connection breaks, and keeps the files that are complete if the program ends.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.constants import HF_HUB_CACHE, HF_HUB_OFFLINE
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id
from huggingface_hub.utils.tqdm import tqdm

from rbe_cli.checkpoint.checked_files import read_json_object
from rbe_cli.checkpoint.hub.hub_cache import Snapshot, cached_snapshots, model_folder_name
from rbe_cli.checkpoint.source_name import HubName
from rbe_cli.checkpoint.tokenizer.tokenizer_files import TOKENIZER_FILES, has_tokenizer
from rbe_cli.checkpoint.unsupported_folders import ADAPTER_CONFIG, refuse_adapter
from rbe_cli.checkpoint.weight_files import missing_weights
from rbe_cli.errors import NotFoundError, OfflineError, RbeError
from rbe_cli.model.config_dialects import to_gpt2_names
from rbe_cli.progress import Progress
from rbe_cli.quoting import clipped, quoted

_SMALL_FILES = ("config.json", "generation_config.json", ADAPTER_CONFIG, *TOKENIZER_FILES)
_OTHER_WEIGHTS = (".h5", ".msgpack", ".onnx", ".gguf", ".rbe", ".ot", ".pt", ".pth", ".ckpt")
_OTHER = "the cache holds nothing whole of this revision; taken instead: commit"
# The second kind is only downloaded from a repository that lacks the first.
_WEIGHT_PATTERNS = (
    ("model.safetensors", "model.safetensors.index.json", "model-*.safetensors"),
    ("pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*.bin"),
)


def fetch(
    model: HubName, *, offline: bool, progress: Progress | None
) -> tuple[Path, tuple[str, ...]]:
    """Return a folder with a model's config, weights and tokenizer, in Hugging Face layout.

    The cache comes first: the network is used only if a file is missing there.

    Args:
        model: its name on the hub, and the revision.
        offline: never use the network.
        progress: called during a download with the model's name, the bytes done, and the bytes
            in total (which grow as files are begun); from other threads, but one at a time.

    Returns:
        The folder, and what the user should know about it, one sentence each.

    Raises:
        NotFoundError: there is no such repository or revision, or it has no weights.
        OfflineError: files are missing in the cache, and cannot be downloaded.
    """
    with hub_errors(str(model)):
        validate_repo_id(model.repo)
    found = cached_snapshots(Path(HF_HUB_CACHE, model_folder_name(model.repo)), model.revision)
    whole = [snapshot for snapshot in found if not snapshot.missing]
    offline = offline or HF_HUB_OFFLINE
    if whole and whole[0].is_asked_for and (offline or has_tokenizer(whole[0].folder)):
        return whole[0].folder, ()
    if not offline:
        try:
            return _download(model, progress), ()
        except NotFoundError as error:
            if not whole:
                raise _naming_missing(error, found) from error
    elif not whole:
        raise _not_cached(model, found)
    notes = () if whole[0].is_asked_for else (f"{model}: {_OTHER} {whole[0].folder.name}",)
    return whole[0].folder, notes


def _download(model: HubName, progress: Progress | None) -> Path:
    """Complete the cache: the small files first, then weights if it has none of them whole.

    Raises:
        NotFoundError: as `fetch`.
        CheckpointError: the small files are not those of a GPT-2.
    """
    bar = reporting_bar(str(model), progress)
    with hub_errors(str(model)):
        for patterns in ((), *_WEIGHT_PATTERNS):
            wanted = [*_SMALL_FILES, *patterns]
            folder = Path(
                snapshot_download(
                    model.repo, revision=model.revision, allow_patterns=wanted, tqdm_class=bar
                )
            )
            if not patterns:
                _refuse_other_models(folder)
            if not missing_weights(folder):
                return folder
        files = HfApi().list_repo_files(model.repo, revision=model.revision)
    others = [name for name in files if name.endswith(_OTHER_WEIGHTS)]
    has = f", but {', '.join(others[:5])}" if others else ""
    raise NotFoundError(f"{model} has neither model.safetensors nor pytorch_model.bin{has}")


def _refuse_other_models(folder: Path) -> None:
    """Refuse what is no GPT-2 by its small files, before its weights are downloaded.

    Raises:
        CheckpointError: the config is of another model, or an adapter has no config.
    """
    if (folder / "config.json").is_file():
        to_gpt2_names(read_json_object(folder / "config.json"))
    else:
        refuse_adapter(folder)


def _not_cached(model: HubName, found: Sequence[Snapshot]) -> OfflineError:
    revision = f" --revision {model.revision}" if model.revision else ""
    step = f"download it first, with: hf download {model.repo}{revision}"
    if found:
        missing = ", ".join(found[0].missing)
        return OfflineError(f"{model} lacks {missing} in the cache, and offline: {step}")
    return OfflineError(f"{model} is no local path, not in the cache, and offline: {step}")


def _naming_missing(error: NotFoundError, found: Sequence[Snapshot]) -> NotFoundError:
    """Return the error of a download, with what the cache lacks if it has a part."""
    if not found or not isinstance(error, OfflineError):
        return error
    return OfflineError(f"{error} (the cache lacks {', '.join(found[0].missing)})")


@contextmanager
def hub_errors(name: str) -> Iterator[None]:
    """Turn the hub library's errors into those of `rbe_cli.errors`, which name the model."""
    try:
        yield
    except RbeError:
        raise
    except HFValidationError as error:
        raise NotFoundError(f"{quoted(name)} is neither an existing path nor a hub id") from error
    except RevisionNotFoundError as error:
        raise NotFoundError(f"{name}: the hub has the model, but not this revision") from error
    except GatedRepoError as error:
        raise NotFoundError(
            f"{name} is gated: accept its conditions on the hub, and set HF_TOKEN"
        ) from error
    except RepositoryNotFoundError as error:
        raise NotFoundError(
            f"{name} is no local path and not on the hub (a private model needs HF_TOKEN)"
        ) from error
    except LocalEntryNotFoundError as error:
        raise OfflineError(
            f"{name} is no local path, not in the cache, and the hub cannot be reached"
        ) from error
    except Exception as error:  # what the library's HTTP client raises has no common base
        raise OfflineError(
            f"{name} could not be downloaded: {clipped(repr(error), 300)}"
        ) from error


def reporting_bar(name: str, progress: Progress | None) -> type[tqdm]:
    """Return a class of progress bar that draws nothing and reports the bytes on disk.

    The bytes of one download after another are added up.
    """
    finished = 0  # bytes of the downloads before

    class ReportingBar(tqdm):
        def __init__(self, *args: Any, **options: Any) -> None:
            # Of the library's bars, this one counts the bytes of all files together.
            self._counts_bytes = options.get("name") == "huggingface_hub.snapshot_download"
            self._before = finished
            initialise: Callable[..., None] = super().__init__
            initialise(*args, **{**options, "disable": True})

        def update(self, n: float | None = 1) -> None:
            nonlocal finished
            if progress is not None and self._counts_bytes:
                with self.get_lock():
                    self.n += n or 0
                    finished = self._before + int(self.n)
                    progress(name, finished, self._before + int(self.total or 0))

    return ReportingBar
