"""Find the state dict in what a training script saved, and the model's sizes beside it."""

from dataclasses import dataclass
from typing import Any

from rbe_cli.checkpoint.torch_files.restricted_pickle import Inert
from rbe_cli.checkpoint.torch_files.torch_pickle import View
from rbe_cli.errors import CheckpointError
from rbe_cli.quoting import quoted

# Every GPT-2 has a position embedding, and no optimizer keeps a tensor under its name.
_ANCHOR = "wpe.weight"
_MAX_DEPTH = 3
_MAX_MODELS = 16
_LONGEST_KEY = 200  # characters of a key that may lead to a model
# If there are several models, such as an average of the weights beside them, the first of these.
_USUAL_KEYS = ("model", "state_dict", "model_state_dict", "module", "model_state")
# Where training scripts keep the model's sizes: nanoGPT, build-nanogpt, Lightning, others.
_CONFIG_KEYS = ("model_args", "model_config", "config", "hyper_parameters", "hparams", "args")


@dataclass(frozen=True)
class SavedModel:
    """Hold the state dict of a file, with what was saved beside it.

    Attributes:
        state: name -> tensor (`View`), or whatever else the file has under that name.
        own_config: the model's sizes under the script's own names; None if there are none.
        notes: what the user should know, one sentence each.
    """

    state: dict[Any, Any]
    own_config: dict[str, Any] | None
    notes: tuple[str, ...]


def find_state_dict(value: Any) -> SavedModel:
    """Find the one state dict of a GPT-2 in a saved object.

    Raises:
        CheckpointError: there is none, or there are several.
    """
    if isinstance(value, Inert):
        raise CheckpointError(
            f"it holds an object of {quoted(value.name)}, not a state dict: save the model's "
            "state_dict()"
        )
    if not isinstance(value, dict) or not value:
        raise CheckpointError("it does not hold a state dict")
    models = _models(value)
    if len(models) > _MAX_MODELS:
        raise CheckpointError(f"it holds {len(models)} models: save one of them alone")
    if not models and any(isinstance(item, dict) for item in value.values()):
        raise CheckpointError("it holds no state dict of a GPT-2: no tensor is named wpe.weight")
    if not models:
        return SavedModel(value, None, ())
    usual = [key for key in _USUAL_KEYS if key in models]
    chosen = usual[0] if usual else next(iter(models))
    if len(models) > 1 and not usual and chosen:
        names = ", ".join(map(quoted, models))
        raise CheckpointError(f"it holds several models ({names}): save one of them alone")
    others = tuple(f"not used: the weights under {quoted(key)}" for key in models if key != chosen)
    return SavedModel(models[chosen], _own_config(value), others)


def _models(value: dict[Any, Any]) -> dict[str, dict[Any, Any]]:
    """Return each dict that holds a GPT-2's tensors, under the keys that lead to it."""
    found: dict[str, dict[Any, Any]] = {}
    level, seen = {"": value}, {id(value)}
    for _ in range(_MAX_DEPTH + 1):
        below: dict[str, dict[Any, Any]] = {}
        for path, own in level.items():
            if any(isinstance(item, View) and _is_anchor(key) for key, item in own.items()):
                found[path] = own
                continue
            for key, item in own.items():
                if isinstance(item, dict) and _may_lead(key) and id(item) not in seen:
                    seen.add(id(item))
                    below[f"{path}.{key}" if path else key] = item
        level = below
    return found


def _may_lead(key: Any) -> bool:
    """Return whether a dict under this key is looked into; long keys would make long paths."""
    return isinstance(key, str) and len(key) <= _LONGEST_KEY


def _is_anchor(name: Any) -> bool:
    return isinstance(name, str) and (name == _ANCHOR or name.endswith("." + _ANCHOR))


def _own_config(value: dict[Any, Any]) -> dict[str, Any] | None:
    """Return the sizes that were saved beside the model, in a dict or an object's attributes."""
    for key in _CONFIG_KEYS:
        found = value.get(key)
        if isinstance(found, Inert):
            found = found.state
        if isinstance(found, dict) and "n_layer" in found and "n_embd" in found:
            return {name: item for name, item in found.items() if isinstance(name, str)}
    return None
