"""Hold what instructions are emitted for, which may be another architecture than this one."""

from rbe_cli.runtime.instruction_sets import Baseline

_target: Baseline | None = None


def compile_for(target: Baseline) -> None:
    """Emit instructions that all CPUs of this baseline have, from now on."""
    global _target
    _target = target


def compile_target() -> Baseline:
    """Return what `compile_for` was called with.

    Raises:
        RuntimeError: it was not called yet.
    """
    if _target is None:
        raise RuntimeError("no baseline to compile for was named")
    return _target
