"""What `rbe --version` prints, and with `-v` what a bug report needs."""

from contextlib import suppress
from pathlib import Path

from rbe_cli import __version__

_LIBRARIES = ("numpy", "numba", "llvmlite", "tokenizers", "huggingface_hub")


def version_text(detailed: bool) -> str:
    """Return the lines to print.

    Args:
        detailed: add the machine, the libraries and the settings. Nothing names the user or
            the machine: the home folder is written as `~`.
    """
    first = f"rbe {__version__}\n"
    if not detailed:
        return first
    return first + "".join(f"{name}: {value}\n" for name, value in _details().items())


def _details() -> dict[str, str]:
    import platform
    from importlib.metadata import PackageNotFoundError, version

    from rbe_cli.bench.machine_info import cpu_model
    from rbe_cli.runtime.cpus import affine_cpus, default_threads
    from rbe_cli.runtime.instruction_sets import chosen
    from rbe_cli.runtime.object_files import cache_folder

    def library(name: str) -> str:
        try:
            return version(name)
        except PackageNotFoundError:
            return "not installed"

    return {
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": platform.platform(),
        "processor": f"{cpu_model()} ({platform.machine()})",
        "instructions": chosen().value,
        "threads": f"{default_threads()} by default, {affine_cpus()} at most",
        **{name: library(name) for name in _LIBRARIES},
        "cache": _without_user(cache_folder()),
    }


def _without_user(path: Path) -> str:
    """Return the path with `~` for the home folder, and without the user's name elsewhere."""
    import getpass

    with suppress(ValueError, RuntimeError):  # it lies elsewhere, or there is no home
        path = Path("~") / path.relative_to(Path.home())
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # nobody knows
        return str(path)
    return str(Path(*("USER" if part == user else part for part in path.parts)))
