"""Say what memory was needed for, and how much, where there is too little of it."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod

TOO_LITTLE = "there is not enough memory"
_SMALL_BYTES = 256_000_000  # which any machine has
_PAGING_FILE_TOO_SMALL = 1455  # Windows' number for a lack of memory


class MemoryNeededError(MemoryError):
    """There is too little memory for a task; the message names the task and its size."""


class MemoryRefusedError(MemoryNeededError):
    """A task was not begun, because there is less memory than it takes at least."""


@contextmanager
def memory_for(task: str, needed: int) -> Iterator[None]:
    """Turn each lack of memory inside into a sentence about the task.

    Of a task and its parts, the whole task is named.

    Args:
        task: what needs memory, as in "to load the model".
        needed: about the bytes that it takes.

    Raises:
        MemoryNeededError: memory, or room for a thread, is lacking.
    """
    try:
        yield
    except Exception as error:
        causes = list(_causes(error))
        if isinstance(error, MemoryRefusedError) or not any(map(lacks_memory, causes)):
            raise
        found = f"{TOO_LITTLE} {task}: about {needed / 1e6:.1f} MB are needed"
        raise MemoryNeededError(found + _part(causes)) from error


def check_available(task: str, needed: int) -> None:
    """Refuse a task for which this machine has too little memory now, before it begins.

    Systems promise more memory than there is, and end a process that uses it. A few bytes of a
    file may stand for many weights, so that this would be easy to bring about.

    Args:
        task: what needs memory, as in "to load the model".
        needed: bytes that it takes at least.

    Raises:
        MemoryRefusedError: memory and swap space are less than that.
    """
    if needed < _SMALL_BYTES:
        return
    import psutil  # 8 ms of each start where it is not needed

    available = psutil.virtual_memory().available + psutil.swap_memory().free
    if needed > available:
        raise MemoryRefusedError(
            f"{TOO_LITTLE} {task}: at least {needed / 1e6:.1f} MB are needed, and "
            f"{available / 1e6:.1f} MB are available"
        )


def memory_sentence(error: BaseException) -> str | None:
    """Return the sentence to report if an error comes from a lack of memory; None if not."""
    causes = list(_causes(error))
    told = next((cause for cause in causes if isinstance(cause, MemoryNeededError)), None)
    if told is not None:
        return str(told)
    return TOO_LITTLE + _part(causes) if any(map(lacks_memory, causes)) else None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield the error and those that led to it, each once: libraries make cycles of them."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def lacks_memory(error: BaseException) -> bool:
    """Whether the error says that memory, or room for one more thread, is lacking."""
    if isinstance(error, MemoryError):
        return True
    if type(error).__name__ == "CudaAPIError":  # numba-cuda is not imported for its name
        return "OUT_OF_MEMORY" in str(error)
    if isinstance(error, RuntimeError):
        return "can't start new thread" in str(error)
    if isinstance(error, ImportError | OSError):
        number, windows = getattr(error, "errno", None), getattr(error, "winerror", None)
        does_not_load = "failed to map segment" in str(error)  # a library's code
        return number == errno.ENOMEM or windows == _PAGING_FILE_TOO_SMALL or does_not_load
    return False


def _part(causes: list[BaseException]) -> str:
    """Return what numpy says of the array that did not fit, if it was one."""
    for error in causes:
        shape, dtype = getattr(error, "shape", None), getattr(error, "dtype", None)
        if isinstance(error, MemoryError) and shape is not None and dtype is not None:
            return f", {prod(shape) * dtype.itemsize / 1e6:.1f} MB of it in one piece"
    return ""
