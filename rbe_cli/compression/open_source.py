"""Open the source that the user names: a checkpoint of any form, or a `.rbe` file."""

from rbe_cli.checkpoint.checkpoint import Checkpoint
from rbe_cli.checkpoint.source import open_checkpoint
from rbe_cli.container.as_checkpoint import as_checkpoint
from rbe_cli.container.find_file import find_rbe, names_rbe
from rbe_cli.container.reader import Container
from rbe_cli.progress import Progress


def open_source(
    source: str, *, offline: bool = False, progress: Progress | None = None
) -> Checkpoint:
    """Open a source as a checkpoint, whose tensors are read when they are accessed.

    Args:
        source: a `.rbe` file (`container.find_file.find_rbe`), whose decoded weights are then
            the original, or any source of `checkpoint.source.open_checkpoint`.
        offline: whether to refuse to use the network.
        progress: called during a download with the model's name, the bytes received and the
            bytes in total.

    Raises:
        NotFoundError: the source is missing.
        OfflineError: it would have to be downloaded, but `offline` is set or the hub cannot be
            reached.
        BadFileError: the source is malformed or damaged.
    """
    if not names_rbe(source):
        return open_checkpoint(source, offline=offline, progress=progress)
    # The file stays open as long as the checkpoint's tensors can be read.
    container = Container.open(find_rbe(source, offline=offline, progress=progress))
    return as_checkpoint(container, source)
