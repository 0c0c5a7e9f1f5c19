"""Import all modules that hold kernels, and return the kernels."""

from importlib import import_module

from rbe_cli.cuda.kernel import KERNELS, Kernel

MODULES = (
    "attention_kernels",
    "dense_product",
    "device_panels",
    "layer_norm_backward_kernels",
    "layer_norm_kernels",
    "overflow_products",
    "rounded_inputs",
)
"""The modules of this folder that hold kernels."""


def all_kernels() -> dict[str, Kernel]:
    """Return every kernel by its name."""
    for name in MODULES:
        import_module(f"rbe_cli.cuda.{name}")
    return dict(KERNELS)
