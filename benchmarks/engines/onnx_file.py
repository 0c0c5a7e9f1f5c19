"""Write a GPT-2 as an ONNX graph with a cache of fixed length, node by node.

Attention is ONNX Runtime's GroupQueryAttention: it takes queries, keys and values as one matrix
and writes the new keys and values into the cache where it lies, if past and present are bound to
the same memory. LayerNorm with the residual's sum, and GELU with its bias, are its fused operators.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from rbe_cli.checkpoint.checkpoint import Float32
from rbe_cli.model.config import Gpt2Config

CONTRIB = "com.microsoft"
OPSET = 21


class Graph:
    """Collect nodes and weights in order of use."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def weight(self, name: str, values: NDArray[Any]) -> str:
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def add(
        self, operator: str, inputs: Sequence[str], output: str | Sequence[str], **attributes: Any
    ) -> str:
        """Add a node of ONNX's own operators; return the name of its first output."""
        return self._add(operator, inputs, output, "", attributes)

    def contrib(
        self, operator: str, inputs: Sequence[str], output: str | Sequence[str], **attributes: Any
    ) -> str:
        """Add a node of ONNX Runtime's operators."""
        return self._add(operator, inputs, output, CONTRIB, attributes)

    def _add(
        self,
        operator: str,
        inputs: Sequence[str],
        output: str | Sequence[str],
        domain: str,
        attributes: Mapping[str, Any],
    ) -> str:
        outputs = [output] if isinstance(output, str) else list(output)
        self.nodes.append(
            helper.make_node(
                operator, list(inputs), outputs, name=outputs[0], domain=domain, **attributes
            )
        )
        return outputs[0]


def make_model(config: Gpt2Config, tensors: Mapping[str, Float32]) -> onnx.ModelProto:
    """Return the whole model in float32, its embeddings in float16.

    Inputs: `tokens` and `positions` int64 `[1, seq]`, `last` int32 `[1]` the index of the newest
    token in the cache, `total` int32 `[]` one more, and `past_0` ... . Outputs: `logits`
    `[1, 1, vocab]` of the last token, and `present_0` ... .
    """
    graph = Graph()
    x, h = _embed(graph, config, tensors)
    for layer in range(config.n_layer):
        x, h = _block(graph, layer, config, tensors, x, h)
    last = graph.add("Gather", [h, graph.weight("minus_one", np.array([-1]))], "newest", axis=1)
    head = tensors.get("lm_head.weight", tensors["wte.weight"])
    graph.add("MatMul", [last, graph.weight("head", head.T)], "logits")
    inputs = [
        helper.make_tensor_value_info("tokens", TensorProto.INT64, [1, "seq"]),
        helper.make_tensor_value_info("positions", TensorProto.INT64, [1, "seq"]),
        helper.make_tensor_value_info("last", TensorProto.INT32, [1]),
        helper.make_tensor_value_info("total", TensorProto.INT32, []),
    ]
    outputs = [
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 1, config.vocab_size])
    ]
    proto = helper.make_graph(
        graph.nodes,
        "gpt2",
        inputs + _caches("past", config),
        outputs + _caches("present", config),
        graph.weights,
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(CONTRIB, 1)]
    return helper.make_model(proto, opset_imports=opsets, ir_version=10)


def cache_names(prefix: str, config: Gpt2Config) -> list[str]:
    """Return the names of all layers' keys and values."""
    return [f"{prefix}_{kind}_{layer}" for layer in range(config.n_layer) for kind in ("k", "v")]


def _caches(prefix: str, config: Gpt2Config) -> list[onnx.ValueInfoProto]:
    shape = [1, config.n_head, config.n_positions, config.head_dim]
    return [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name in cache_names(prefix, config)
    ]


def _embed(graph: Graph, config: Gpt2Config, tensors: Mapping[str, Float32]) -> tuple[str, str]:
    """Add the embeddings; return the names of the residual stream and of the first LayerNorm."""
    rows = []
    for name, index in (("wte", "tokens"), ("wpe", "positions")):
        table = graph.weight(name, tensors[f"{name}.weight"].astype(np.float16))
        half = graph.add("Gather", [table, index], f"{name}_half")
        rows.append(graph.add("Cast", [half], f"{name}_rows", to=TensorProto.FLOAT))
    x = graph.add("Add", rows, "embedded")
    h = graph.add(
        "LayerNormalization",
        [x, *_parameters(graph, "h.0.ln_1", tensors)],
        "h.0.ln_1",
        epsilon=config.layer_norm_epsilon,
    )
    return x, h


def _block(
    graph: Graph,
    layer: int,
    config: Gpt2Config,
    tensors: Mapping[str, Float32],
    x: str,
    h: str,
) -> tuple[str, str]:
    """Add a block; return the names of the residual stream and of the next LayerNorm's output.

    Args:
        x: the residual stream `[1, seq, d]`.
        h: `ln_1` of it.
    """
    own = f"h.{layer}"
    following = f"h.{layer + 1}.ln_1" if layer + 1 < config.n_layer else "ln_f"
    qkv = _linear(graph, f"{own}.attn.c_attn", tensors, h)  # [1, seq, 3 d]
    mixed = graph.contrib(
        "GroupQueryAttention",
        [qkv, "", "", f"past_k_{layer}", f"past_v_{layer}", "last", "total"],
        [f"{own}.mixed", f"present_k_{layer}", f"present_v_{layer}"],
        num_heads=config.n_head,
        kv_num_heads=config.n_head,
    )
    out = _product(graph, f"{own}.attn.c_proj", tensors, mixed)
    x, h = _add_and_norm(graph, config, tensors, out, x, f"{own}.attn.c_proj", f"{own}.ln_2")
    up = _product(graph, f"{own}.mlp.c_fc", tensors, h)  # [1, seq, 4 d]
    bias = graph.weight(f"{own}.mlp.c_fc.bias", tensors[f"{own}.mlp.c_fc.bias"])
    active = graph.contrib("FastGelu", [up, bias], f"{own}.gelu")
    down = _product(graph, f"{own}.mlp.c_proj", tensors, active)
    return _add_and_norm(graph, config, tensors, down, x, f"{own}.mlp.c_proj", following)


def _add_and_norm(
    graph: Graph,
    config: Gpt2Config,
    tensors: Mapping[str, Float32],
    out: str,
    x: str,
    linear: str,
    norm: str,
) -> tuple[str, str]:
    """Add a linear layer's products and bias to the residual stream, and normalise the sum."""
    bias = graph.weight(f"{linear}.bias", tensors[f"{linear}.bias"])
    total = f"{linear}.sum"
    h = graph.contrib(
        "SkipLayerNormalization",
        [out, x, *_parameters(graph, norm, tensors), bias],
        [norm, "", "", total],
        epsilon=config.layer_norm_epsilon,
    )
    return total, h


def _linear(graph: Graph, name: str, tensors: Mapping[str, Float32], x: str) -> str:
    product = _product(graph, name, tensors, x)
    bias = graph.weight(f"{name}.bias", tensors[f"{name}.bias"])
    return graph.add("Add", [product, bias], f"{name}.biased")


def _product(graph: Graph, name: str, tensors: Mapping[str, Float32], x: str) -> str:
    weight = graph.weight(f"{name}.weight", tensors[f"{name}.weight"])
    return graph.add("MatMul", [x, weight], f"{name}.product")


def _parameters(graph: Graph, norm: str, tensors: Mapping[str, Float32]) -> list[str]:
    return [
        graph.weight(f"{norm}.{part}", tensors[f"{norm}.{part}"]) for part in ("weight", "bias")
    ]
