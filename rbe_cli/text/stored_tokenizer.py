"""The tokenizer that a `.rbe` file holds."""

from rbe_cli.container.reader import Container
from rbe_cli.errors import BadFileError
from rbe_cli.runtime.heap import trim_heap
from rbe_cli.text.tokenizer import Tokenizer


def load_tokenizer(container: Container) -> Tokenizer | None:
    """Return the file's tokenizer; None if it has none.

    What the library needs only to build it, which is twice as much as the tokenizer takes, is
    given back to the system.

    Raises:
        BadFileError: the tokenizer is damaged; the message names the file.
    """
    stored = container.tokenizer_json()
    if stored is None:
        return None
    try:
        tokenizer = Tokenizer(stored, container.config.vocab_size)
    except BadFileError as error:
        raise BadFileError(f"{container.path}: {error}") from error
    trim_heap()
    return tokenizer
