"""Find the GPT-2 among the names of stored tensors: what wraps it, and what is beside it.

Training scripts put the model into other modules, whose names become prefixes (`module.`,
`_orig_mod.`, `model.`), and give it heads of their own (`score`, `v_head`). One tensor that
every GPT-2 has shows the prefix; names outside of it are no part of the language model.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rbe_cli.checkpoint.checkpoint_tensor import CheckpointTensor
from rbe_cli.errors import CheckpointError
from rbe_cli.model.tensor_names import is_mask_buffer
from rbe_cli.quoting import quoted

_TRANSFORMER = "transformer."
# Wrappers of single layers, whose names may stand anywhere: torch.compile, FSDP, checkpointing.
_INNER_WRAPPERS = re.compile(
    r"(?<=\.)(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)
_ANCHORS = ("wpe.weight", "wte.weight", "ln_f.weight")
_STACK = ("wte", "wpe", "h", "ln_f", "lm_head")
# Heads of Hugging Face's GPT-2 classes, of trl and of common scripts, as first part of a name.
_HEADS = (
    "v_head",
    "value_head",
    "reward_head",
    "score",
    "classifier",
    "multiple_choice_head",
    "mc_head",
    "qa_outputs",
    "summary",
    "sequence_summary",
    "pooler",
)
_DIALOGPT_HEAD = "lm_head.decoder.weight"
# Parts of names that quantised checkpoints and adapters have.
_QUANTISED = ("qweight", "qzeros", "g_idx", "SCB", "absmax", "quant_map", "weight_packed")
_ADAPTER = ("lora_A", "lora_B", "lora_embedding_A")
_SHOWN = 8  # names in a note
_LONGEST_NAME = 500  # characters


@dataclass(frozen=True)
class FoundTensors:
    """Hold a GPT-2's tensors under their canonical names, as far as the names tell.

    Attributes:
        tensors: by canonical name, mask buffers left out; some may be unknown or missing.
        notes: what the user should know about the names, one sentence each.
    """

    tensors: dict[str, CheckpointTensor]
    notes: tuple[str, ...]


def find_gpt2(stored: Iterable[tuple[str, CheckpointTensor]]) -> FoundTensors:
    """Take the prefix off the names, and leave out other heads.

    Raises:
        CheckpointError: a tensor is stored twice, a name is too long, there are several GPT-2s,
            or the names are those of a quantised checkpoint, an adapter or another architecture.
    """
    pairs = list(stored)
    names = [name for name, _ in pairs]
    longest = max(names, key=len, default="")
    if len(longest) > _LONGEST_NAME:
        raise CheckpointError(
            f"a tensor has a name of {len(longest)} characters: {quoted(longest)}"
        )
    _refuse_other_kinds(names)
    prefix = _prefix(names)
    outer = _outer(prefix)
    head = _head_name(prefix, outer, names)
    tensors: dict[str, CheckpointTensor] = {}
    unused, inner = [], set[str]()
    for stored_name, tensor in pairs:
        name = "lm_head.weight" if stored_name == head else _canonical(stored_name, prefix, outer)
        if name is not None:
            inner |= set(_INNER_WRAPPERS.findall(name))
            name = _INNER_WRAPPERS.sub("", name)
        if name is None:
            unused.append(stored_name)
        elif name in tensors:
            raise CheckpointError(f"tensor {quoted(name)} is stored twice")
        elif not is_mask_buffer(name):
            tensors[name] = tensor
    wrapper = prefix.removesuffix(_TRANSFORMER)
    notes = [f"the prefix {quoted(wrapper)} of the tensors' names is left out"] if wrapper else []
    notes += [f"{quoted(part)} inside the tensors' names is left out" for part in sorted(inner)]
    if unused:
        notes.append(f"not used: {_listed(unused)}")
    return FoundTensors(tensors, tuple(notes))


def _prefix(names: Sequence[str]) -> str:
    """Return what precedes the GPT-2's names, such as `module.transformer.`."""
    for anchor in _ANCHORS:
        found = {
            name.removesuffix(anchor)
            for name in names
            if name == anchor or name.endswith("." + anchor)
        }
        for plain in ("", _TRANSFORMER):
            if plain in found:
                return plain
        if len(found) > 1:
            prefixes = ", ".join(map(quoted, sorted(found)[:4]))
            raise CheckpointError(f"it holds several GPT-2s, under {prefixes}: save one of them")
        if found:
            return found.pop()
    first = f": the first is {quoted(names[0])}" if names else ""
    raise CheckpointError(f"none of its tensors is of a GPT-2, which has a wpe.weight{first}")


def _outer(prefix: str) -> str:
    """Return the prefix of what stands beside the GPT-2, such as its heads."""
    if prefix.endswith(_TRANSFORMER):
        return prefix.removesuffix(_TRANSFORMER)
    return "".join(prefix.removesuffix(".").rpartition(".")[:2])


def _head_name(prefix: str, outer: str, names: Sequence[str]) -> str:
    """Return the name of the language-model head, which stands in the stack or beside it."""
    beside = f"{outer}lm_head.weight"
    return beside if beside in names else f"{prefix}lm_head.weight"


def _canonical(stored_name: str, prefix: str, outer: str) -> str | None:
    """Return the canonical name; None for what is no part of the language model."""
    is_inside = stored_name.startswith(prefix)
    name = stored_name.removeprefix(prefix if is_inside else outer).removeprefix(_TRANSFORMER)
    part = name.partition(".")[0]
    if name == _DIALOGPT_HEAD or part in _HEADS:
        return None
    # Beside the stack, a second copy of one of its tensors is no head.
    return name if is_inside or part in _STACK else None


def _refuse_other_kinds(names: Sequence[str]) -> None:
    for name in names:
        parts = name.split(".")
        if any(part in _QUANTISED for part in parts):
            raise CheckpointError(
                f"the checkpoint is already quantised (it has a tensor {quoted(name)}): rbe needs "
                "the original weights"
            )
        if any(part in _ADAPTER for part in parts):
            raise CheckpointError(
                f"the file holds an adapter (it has a tensor {quoted(name)}), not a whole model: "
                "merge it first (merge_and_unload of peft, then save_pretrained)"
            )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(name[:80] for name in names[:_SHOWN]) + more
