"""Programs that test_floating.py compiles: the functions of floating.py over arrays."""

from rbe_cli.runtime.floating import fused_float
from rbe_cli.runtime.jit import program_code
from rbe_cli.runtime.simd import LANES, fused, load_floats, load_halfs, store_floats, store_halfs


@program_code
def fuse_scalars(arithmetic, a, b, c, out):
    for i in range(out.shape[0]):
        out[i] = fused_float(a[i], b[i], c[i])


@program_code
def add_products(arithmetic, a, b, c, out):
    for i in range(out.shape[0]):
        out[i] = a[i] * b[i] + c[i]


@program_code
def fuse_vectors(arithmetic, a, b, c, out, count):
    for i in range(0, 4 * count, 4 * LANES):
        store_floats(out + i, fused(load_floats(a + i), load_floats(b + i), load_floats(c + i)))


@program_code
def widen_halfs(arithmetic, halfs, out, count):
    for i in range(0, count, LANES):
        store_floats(out + 4 * i, load_halfs(halfs + 2 * i))


@program_code
def narrow_floats(arithmetic, x, out, count):
    for i in range(0, count, LANES):
        store_halfs(out + 2 * i, load_floats(x + 4 * i))
