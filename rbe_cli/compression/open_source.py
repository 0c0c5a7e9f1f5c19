"""Opens what the user names as a source: a checkpoint of any form, or a `.rbe` file."""

from rbe_cli.checkpoint.checkpoint import Checkpoint
from rbe_cli.checkpoint.source import open_checkpoint
from rbe_cli.container.as_checkpoint import as_checkpoint
from rbe_cli.container.find_file import find_rbe, names_rbe
from rbe_cli.container.reader import Container
from rbe_cli.progress import Progress


def open_source(
    source: str, *, offline: bool = False, progress: Progress | None = None
) -> Checkpoint:
    """Open a source as a checkpoint; its tensors are read only when asked for.

    Args:
        source: a `.rbe` file (`container.locate.find_rbe`), whose decoded weights are then the
            original, or any source of `checkpoint.source.open_checkpoint`.
        offline: never use the network.
        progress: called with the model's name, bytes done and bytes in total during a download.

    Raises:
        NotFoundError: the source is missing.
        OfflineError: it would have to be downloaded, and that is not possible.
        BadFileError: it is malformed or damaged.
    """
    if not names_rbe(source):
        return open_checkpoint(source, offline=offline, progress=progress)
    # The file stays mapped as long as the checkpoint's tensors can be read.
    container = Container.open(find_rbe(source, offline=offline, progress=progress))
    return as_checkpoint(container, source)
