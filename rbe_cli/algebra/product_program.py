"""Multiply matrices in blocks that stay in the cache (Goto and van de Geijn 2008).

The second matrix is copied, some steps by some columns at a time, to where a tile's columns lie
together; of the first, only what is transposed.
"""

from typing import Any

from rbe_cli.algebra.product_record import FEW_ROWS, GROUP_BYTES, PRODUCT, ROWS, STEPS
from rbe_cli.algebra.product_tiles import (
    DOUBLE,
    ROW_PARTS,
    SINGLE,
    add_large_tile,
    add_middle_tile,
    add_small_tile,
    element_bytes,
    tile_columns,
    tile_rows,
)
from rbe_cli.runtime.jit import program_code
from rbe_cli.runtime.simd import (
    load_floats,
    load_int,
    load_int32,
    record,
    store_floats,
    store_int,
    store_int32,
)
from rbe_cli.runtime.team_programs import share


@program_code
def product_program(arithmetic: Any, part: int, parts: int, job_address: int) -> None:
    """Compute a part's columns of a product of float32."""
    _multiply(arithmetic, SINGLE, part, parts, job_address)


@program_code
def double_product_program(arithmetic: Any, part: int, parts: int, job_address: int) -> None:
    """Compute a part's columns of a product of float64."""
    _multiply(arithmetic, DOUBLE, part, parts, job_address)


@program_code
def _multiply(arithmetic: Any, kind: Any, part: int, parts: int, job_address: int) -> None:
    """Compute a part's share: whole matrices, or whole tiles of columns of the only one."""
    job = record(PRODUCT, job_address)
    width = tile_columns(arithmetic, kind)
    tiles = (job.columns + width - 1) // width
    scratch = job.scratch + part * job.scratch_bytes
    if job.items == 1:
        first, last = share(tiles, part, parts), share(tiles, part + 1, parts)
        _multiply_item(arithmetic, kind, job, job.a, job.b, job.c, first, last, scratch)
    else:
        for item in range(share(job.items, part, parts), share(job.items, part + 1, parts)):
            _multiply_item(
                arithmetic, kind, job, job.a + item * job.a_item, job.b + item * job.b_item,
                job.c + item * job.c_item, 0, tiles, scratch,
            )  # fmt: skip


@program_code
def _multiply_item(
    arithmetic: Any,
    kind: Any,
    job: Any,
    a: int,
    b: int,
    c: int,
    first: int,
    last: int,
    scratch: int,
) -> None:
    """Compute tiles of columns of one product of matrices at addresses."""
    size, width = element_bytes(kind), tile_columns(arithmetic, kind)
    at_once = max(GROUP_BYTES // (size * width), 1)
    is_copied = job.rows > FEW_ROWS or job.b_column != size
    for step in range(0, job.steps, STEPS):
        steps = min(STEPS, job.steps - step)
        own_a, own_b = a + step * job.a_step, b + step * job.b_step
        is_first = step == 0 and job.adds == 0
        for start in range(first, last, at_once):
            stop = min(start + at_once, last)
            for tile in range(start, stop):
                if is_copied or width * (tile + 1) > job.columns:
                    place = scratch + (tile - start) * steps * width * size
                    _copy_columns(arithmetic, kind, job, own_b, steps, width * tile, place)
            _multiply_group(
                arithmetic, kind, job, own_a, own_b, c, steps, start, stop, is_copied, is_first,
                scratch,
            )  # fmt: skip
    if job.steps == 0 and job.adds == 0:
        _clear(kind, job, c, first * width, min(last * width, job.columns))


@program_code
def _clear(kind: Any, job: Any, c: int, first: int, last: int) -> None:
    size = element_bytes(kind)
    for row in range(job.rows):
        for column in range(first, last):
            _store(kind, c + row * job.c_row + column * size, 0)


@program_code
def _load(kind: Any, place: int) -> int:
    """Return the bits of an element."""
    return load_int32(place) if element_bytes(kind) == 4 else load_int(place)


@program_code
def _store(kind: Any, place: int, bits: int) -> None:
    if element_bytes(kind) == 4:
        store_int32(place, bits)
    else:
        store_int(place, bits)


@program_code
def _copy_columns(
    arithmetic: Any, kind: Any, job: Any, b: int, steps: int, column: int, place: int
) -> None:
    """Copy a tile's columns of the second matrix to `[steps, columns of a tile]`."""
    size, width = element_bytes(kind), tile_columns(arithmetic, kind)
    count = min(width, job.columns - column)
    source = b + column * job.b_column
    if count == width and job.b_column == size:
        for _ in range(steps):
            for i in range(0, size * width, 64):
                store_floats(place + i, load_floats(source + i))
            source += job.b_step
            place += size * width
        return
    for i in range(count):
        own, target = source + i * job.b_column, place + i * size
        for _ in range(steps):
            _store(kind, target, _load(kind, own))
            own += job.b_step
            target += size * width
    for i in range(count, width):
        for k in range(steps):
            _store(kind, place + (k * width + i) * size, 0)


@program_code
def _multiply_group(
    arithmetic: Any,
    kind: Any,
    job: Any,
    a: int,
    b: int,
    c: int,
    steps: int,
    start: int,
    stop: int,
    is_copied: int,
    is_first: int,
    columns: int,
) -> None:
    """Multiply some tiles of columns with all rows; `columns` is where they were copied to."""
    size, width, height = element_bytes(kind), tile_columns(arithmetic, kind), tile_rows(arithmetic)
    copies = columns + STEPS * GROUP_BYTES
    edge = copies + STEPS * 8 * ROWS
    is_transposed = job.a_row == size and job.a_step != size
    for block in range(0, job.rows, ROWS):
        block_rows = min(ROWS, job.rows - block)
        if is_transposed:
            _copy_rows(arithmetic, kind, job, a + block * size, block_rows, steps, copies)
        for tile in range(start, stop):
            own, b_step = columns + (tile - start) * steps * width * size, width * size
            if not is_copied and width * (tile + 1) <= job.columns:
                own, b_step = b + tile * width * size, job.b_step
            for row in range(0, block_rows, height):
                own_a, a_row, a_step = a + (block + row) * job.a_row, job.a_row, job.a_step
                if is_transposed:
                    own_a, a_row, a_step = copies + row * steps * size, size, height * size
                _add(
                    arithmetic, kind, own_a, a_row, a_step, own, b_step, steps,
                    c + (block + row) * job.c_row + tile * width * size, job.c_row,
                    min(height, block_rows - row), min(width, job.columns - width * tile),
                    is_first, edge,
                )  # fmt: skip


@program_code
def _copy_rows(
    arithmetic: Any, kind: Any, job: Any, a: int, rows: int, steps: int, place: int
) -> None:
    """Copy rows of a transposed matrix to `[tiles, steps, rows of a tile]`."""
    size, height = element_bytes(kind), tile_rows(arithmetic)
    for row in range(0, rows, height):
        count = min(height, rows - row)
        source = a + row * size
        target = place + row * steps * size
        for _ in range(steps):
            for i in range(0, count * size, size):
                _store(kind, target + i, _load(kind, source + i))
            source += job.a_step
            target += height * size


@program_code
def _add(
    arithmetic: Any,
    kind: Any,
    a: int,
    a_row: int,
    a_step: int,
    b: int,
    b_step: int,
    steps: int,
    c: int,
    c_row: int,
    rows: int,
    columns: int,
    is_first: int,
    edge: int,
) -> None:
    """Add the product of a tile; where it is not a whole one, that is computed at `edge`."""
    size, width, unit = (
        element_bytes(kind),
        tile_columns(arithmetic, kind),
        tile_rows(arithmetic) // ROW_PARTS,
    )
    parts = (rows + unit - 1) // unit
    is_whole = columns == width and rows == parts * unit
    place, row = c, c_row
    if not is_whole:
        place, row = edge, size * width
        if not is_first:
            _copy(kind, c, c_row, place, row, rows, columns)
    if parts == 3:
        add_large_tile(
            arithmetic, kind, a, a_row, a_step, rows - 1, b, b_step, steps, place, row, is_first
        )
    elif parts == 2:
        add_middle_tile(
            arithmetic, kind, a, a_row, a_step, rows - 1, b, b_step, steps, place, row, is_first
        )
    else:
        add_small_tile(
            arithmetic, kind, a, a_row, a_step, rows - 1, b, b_step, steps, place, row, is_first
        )
    if not is_whole:
        _copy(kind, place, row, c, c_row, rows, columns)


@program_code
def _copy(
    kind: Any, source: int, source_row: int, target: int, target_row: int, rows: int, columns: int
) -> None:
    size = element_bytes(kind)
    for row in range(rows):
        for i in range(0, columns * size, size):
            _store(kind, target + row * target_row + i, _load(kind, source + row * source_row + i))
