"""The forward pass of a GPT-2 as one program that all threads of a team run together.

Tokens of any rows and positions go through the layers at once: one of each row when decoding,
many of one row in a prompt. The logits of a token depend neither on the tokens beside it nor on
the threads.
"""

from typing import Any

import numpy as np

from rbe_cli.engine.forward_records import FORWARD, LAYER
from rbe_cli.kernels.attention.cache_pages import append
from rbe_cli.kernels.layer_norm.layer_norm_program import layer_norm_row
from rbe_cli.kernels.linear.column_lookup import add_column
from rbe_cli.kernels.linear.products import quantise
from rbe_cli.kernels.linear.quad_products import int8_arithmetic
from rbe_cli.runtime.jit import program_code
from rbe_cli.runtime.simd import (
    address_of,
    invoke,
    load_int,
    prefetch,
    record,
    record_at,
    store_float,
)
from rbe_cli.runtime.team_programs import barrier, share
from rbe_cli.weights.matrix_record import FLOATS
from rbe_cli.weights.panel_layout import VECTOR_BYTES

_ZERO = np.float32(0)
_FETCHED_BYTES = 4096
_STORE, _ADD, _ACTIVATE = 0, 1, 2
_UNPACKED_TILE = 8 * VECTOR_BYTES


@program_code
def forward(arithmetic: Any, part: int, parts: int, job_address: int) -> None:
    """Append tokens to the cache, and compute the wanted logits, as one of `parts` threads.

    Each of `parts` threads runs this program, with its own number `part`.
    """
    job = record(FORWARD, job_address)
    if job.first == 0:
        _embed(arithmetic, job, part, parts)
        barrier(job.flags, part, parts)
    for number in range(job.first, job.last):
        layer = record_at(LAYER, job.layers, number)
        _attention(arithmetic, job, layer, number, part, parts)
        if number + 1 < job.last:
            following = record_at(LAYER, job.layers, number + 1).c_attn
        else:
            following = job.head
        _feed_forward(arithmetic, job, layer, following, part, parts)
    if job.last == job.n_layer and job.wanted > 0:
        _head(arithmetic, job, part, parts)


@program_code
def _attention(arithmetic: Any, job: Any, layer: Any, number: int, part: int, parts: int) -> None:
    """Add attention(ln_1(x)) to x."""
    count = job.tokens
    _normalise(arithmetic, job, layer.ln_1, layer.c_attn, part, parts)
    _multiply(arithmetic, job, layer.c_attn, job.normed, job.qkv, _STORE, part, parts)
    _fetch(layer.attn_proj, part, parts)
    barrier(job.flags, part, parts)
    heads = job.cache.heads
    if count > 1:  # else whoever attends with a head appends to it first
        for unit in range(share(count * heads, part, parts), share(count * heads, part + 1, parts)):
            _append(job, number, unit // heads, unit % heads)
        barrier(job.flags, part, parts)
    for unit in range(part, (count + 3) // 4 * heads, parts):
        _attend_to_four(job, number, unit // heads * 4, unit % heads, part)
    barrier(job.flags, part, parts)
    _round(arithmetic, job, layer.attn_proj, job.attended, part, parts)
    _multiply(arithmetic, job, layer.attn_proj, job.attended, job.x, _ADD, part, parts)
    _fetch(layer.c_fc, part, parts)
    barrier(job.flags, part, parts)


@program_code
def _append(job: Any, number: int, token: int, head: int) -> None:
    """Keep a token's key and value of one head."""
    width = 4 * job.cache.head_dim
    key = job.qkv.address + token * job.qkv.stride + (job.cache.heads + head) * width
    row, position = load_int(job.rows + 8 * token), load_int(job.positions + 8 * token)
    append(job.cache, number, head, row, position, key, key + job.cache.heads * width)


@program_code
def _attend_to_four(job: Any, number: int, token: int, head: int, part: int) -> None:
    """Run one head of tokens `token` to `token + 3`, at once where they follow each other."""
    if job.tokens == 1:
        _append(job, number, token, head)
    offset = 4 * head * job.cache.head_dim
    scratch = job.scratch + part * job.scratch_bytes
    row, position = load_int(job.rows + 8 * token), load_int(job.positions + 8 * token)
    last = token + 3
    together = 1
    if (
        last < job.tokens
        and load_int(job.rows + 8 * last) == row
        and load_int(job.positions + 8 * last) == position + 3
    ):
        together = 4
    while token < min(last + 1, job.tokens):
        numbers = (
            address_of(job.cache), job.scales + 8 * number, number, head,
            load_int(job.rows + 8 * token), load_int(job.positions + 8 * token), together,
            job.qkv.address + token * job.qkv.stride + offset, job.qkv.stride,
            job.attended.address + token * job.attended.stride + offset, scratch,
        )  # fmt: skip
        invoke(job.attend, numbers)
        token += together


@program_code
def _feed_forward(
    arithmetic: Any, job: Any, layer: Any, following: Any, part: int, parts: int
) -> None:
    """Add c_proj(activation(c_fc(ln_2(x)))) to x; `following` is the matrix that is read next."""
    _normalise(arithmetic, job, layer.ln_2, layer.c_fc, part, parts)
    _multiply(arithmetic, job, layer.c_fc, job.normed, job.hidden, _ACTIVATE, part, parts)
    _fetch(layer.mlp_proj, part, parts)
    barrier(job.flags, part, parts)
    _round(arithmetic, job, layer.mlp_proj, job.hidden, part, parts)
    _multiply(arithmetic, job, layer.mlp_proj, job.hidden, job.x, _ADD, part, parts)
    _fetch(following, part, parts)
    barrier(job.flags, part, parts)


@program_code
def _head(arithmetic: Any, job: Any, part: int, parts: int) -> None:
    """Compute the logits of the wanted tokens, whose states move to the front of a buffer."""
    states = job.normed
    _normalise_wanted(job, job.ln_f, states, part, parts)
    if job.mixing.panels > 0:
        states = job.attended
        _normalise_wanted(job, job.mixed, states, part, parts)
        _multiply_wanted(arithmetic, job, job.mixing, job.normed, states, 1, part, parts)
        barrier(job.flags, part, parts)
        _multiply_wanted(arithmetic, job, job.mixing_rest, job.normed, states, 1, part, parts)
        barrier(job.flags, part, parts)
    _multiply_wanted(arithmetic, job, job.head, states, job.logits, 0, part, parts)


@program_code
def _normalise_wanted(job: Any, norm: Any, out: Any, part: int, parts: int) -> None:
    """Set out = LayerNorm(x) for this thread's share of the wanted tokens."""
    for place in range(share(job.wanted, part, parts), share(job.wanted, part + 1, parts)):
        token = load_int(job.wanted_tokens + 8 * place)
        x, normed = job.x.address + token * job.x.stride, out.address + place * out.stride
        layer_norm_row(x, job.n_embd, norm.gamma, norm.beta, job.eps, normed)


@program_code
def _multiply_wanted(
    arithmetic: Any, job: Any, matrix: Any, x: Any, out: Any, adds: int, part: int, parts: int
) -> None:
    """Store x W + bias of the wanted tokens to `out`, or add it, for a thread's columns.

    A thread has `x` of its share of the tokens; after this, it must wait before it reads `out`.
    """
    if matrix.form != FLOATS:
        for place in range(share(job.wanted, part, parts), share(job.wanted, part + 1, parts)):
            own = job.quantised_inputs + place * job.quantised_bytes
            quantise(arithmetic, x.address + place * x.stride, matrix.row_steps, job.n_embd, own)
    barrier(job.flags, part, parts)
    panels = matrix.panels
    numbers = (
        address_of(matrix), job.wanted, x.address, x.stride, job.quantised_inputs,
        job.quantised_bytes, out.address, out.stride, adds, -1,
        job.scratch + part * job.scratch_bytes,
        share(panels, part, parts), share(panels, part + 1, parts),
    )  # fmt: skip
    invoke(job.multiply, numbers)


@program_code
def _embed(arithmetic: Any, job: Any, part: int, parts: int) -> None:
    """Set x = wte[id] + wpe[position] for this thread's share of the tokens."""
    scratch = job.scratch + part * job.scratch_bytes
    for token in range(share(job.tokens, part, parts), share(job.tokens, part + 1, parts)):
        out = job.x.address + token * job.x.stride
        for row in range(job.n_embd):
            store_float(out + 4 * row, _ZERO)
        add_column(arithmetic, job.wte, load_int(job.ids + 8 * token), out, scratch)
        add_column(arithmetic, job.wpe, load_int(job.positions + 8 * token), out, scratch)


@program_code
def _quantised_inputs(job: Any, part: int) -> Any:
    """Return the address of the quantised inputs: of one token, each thread has its own."""
    if job.tokens == 1:
        return job.quantised_inputs + part * job.quantised_bytes
    return job.quantised_inputs


@program_code
def _normalise(arithmetic: Any, job: Any, norm: Any, matrix: Any, part: int, parts: int) -> None:
    """Set normed = LayerNorm(x), and round it for `matrix`."""
    first, last = _token_share(job, part, parts)
    own = _quantised_inputs(job, part)
    for token in range(first, last):
        normed = job.normed.address + token * job.normed.stride
        if job.tokens == 1:  # every thread computes it, each in a row of its own
            normed = job.normed.address + part * job.normed.stride
        x = job.x.address + token * job.x.stride
        layer_norm_row(x, job.n_embd, norm.gamma, norm.beta, job.eps, normed)
        _quantise(arithmetic, job, normed, matrix, own + token * job.quantised_bytes)
    if job.tokens > 1:
        barrier(job.flags, part, parts)


@program_code
def _round(arithmetic: Any, job: Any, matrix: Any, buffer: Any, part: int, parts: int) -> None:
    """Quantise a buffer's tokens for `matrix`."""
    first, last = _token_share(job, part, parts)
    own = _quantised_inputs(job, part)
    for token in range(first, last):
        x = buffer.address + token * buffer.stride
        _quantise(arithmetic, job, x, matrix, own + token * job.quantised_bytes)
    if job.tokens > 1:
        barrier(job.flags, part, parts)


@program_code
def _token_share(job: Any, part: int, parts: int) -> Any:
    """Return the first and last token that a thread prepares; one token is prepared by all."""
    if job.tokens == 1:
        return 0, 1
    return share(job.tokens, part, parts), share(job.tokens, part + 1, parts)


@program_code
def _quantise(arithmetic: Any, job: Any, x: int, matrix: Any, out: int) -> None:
    """Quantise one token's inputs `x` for `matrix`, unless its weights are floats."""
    if matrix.form != FLOATS:
        if job.is_prompt != 0 and matrix.takes_int8 != 0:
            quantise(int8_arithmetic(arithmetic), x, matrix.row_steps, matrix.rows, out)
        else:
            quantise(arithmetic, x, matrix.row_steps, matrix.rows, out)


@program_code
def _multiply(
    arithmetic: Any,
    job: Any,
    matrix: Any,
    x: Any,
    out: Any,
    finish: int,
    part: int,
    parts: int,
) -> None:
    """Compute a thread's columns of x W + bias, of what was rounded before.

    They are stored to `out`, added to it, or activated and stored, as `finish` says.
    """
    address = x.address
    if job.tokens == 1 and x.address == job.normed.address:
        address += part * x.stride
    panels = matrix.panels
    numbers = (
        address_of(matrix), job.tokens, address, x.stride, _quantised_inputs(job, part),
        job.quantised_bytes, out.address, out.stride, np.int64(finish == _ADD),
        job.activation if finish == _ACTIVATE else -1,
        job.scratch + part * job.scratch_bytes,
        share(panels, part, parts), share(panels, part + 1, parts),
    )  # fmt: skip
    if job.is_prompt != 0 and matrix.takes_int8 != 0:
        invoke(job.multiply_int8, numbers)
    else:
        invoke(job.multiply, numbers)


@program_code
def _fetch(matrix: Any, part: int, parts: int) -> None:
    """Bring the beginning of a thread's next panels into the cache, ahead of the barrier."""
    if matrix.form == FLOATS:
        return
    first = matrix.values + load_int(matrix.starts + 8 * share(matrix.panels, part, parts))
    for place in range(first, first + _FETCHED_BYTES, VECTOR_BYTES):
        prefetch(place)
