"""Trains the checkpoint that ships with the package as `demo`.

    python tools/train_demo.py --corpora FOLDER --steps 4000

A GPT-2 of 2.9 M parameters learns English from public-domain novels. The last
tenth of Middlemarch is never trained on: the validation loss, in nats per token
over windows of 256 tokens, is measured on it. Needs torch (the `train` extra).
"""

import argparse
import json
import math
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from torch.nn import functional

CONFIG: dict[str, Any] = {
    "activation_function": "gelu_new",
    "architectures": ["GPT2LMHeadModel"],
    "bos_token_id": 0,
    "eos_token_id": 0,
    "layer_norm_epsilon": 1e-5,
    "model_type": "gpt2",
    "n_ctx": 256,
    "n_embd": 192,
    "n_head": 6,
    "n_inner": None,
    "n_layer": 5,
    "n_positions": 256,
    "scale_attn_by_inverse_layer_idx": False,
    "scale_attn_weights": True,
    "tie_word_embeddings": True,
    "vocab_size": 3072,
}
NOVELS = ("middlemarch.txt", "bleak_house.txt", "war_and_peace.txt")
DEMO = Path(__file__).parents[1] / "rbe_cli" / "checkpoint" / "demo"
END_OF_TEXT = "<|endoftext|>"


def read_novel(path: Path) -> str:
    """Return the novel without Gutenberg's notices, one paragraph a line."""
    text = path.read_text(encoding="utf-8-sig")
    text = re.split(r"\*\*\* ?START OF TH[^\n]*\n", text)[-1]
    text = re.split(r"\*\*\* ?END OF TH", text)[0]
    paragraphs = re.split(r"\n\s*\n", text)
    lines = (" ".join(paragraph.split()) for paragraph in paragraphs)
    return "\n".join(line for line in lines if line) + "\n"


def train_tokenizer(text: str) -> Tokenizer:
    """Train a byte-level BPE like GPT-2's, with CONFIG's vocabulary size."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=CONFIG["vocab_size"],
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(text.splitlines(keepends=True), trainer)
    return tokenizer


class Block(nn.Module):
    """Compute a pre-LayerNorm transformer block with GPT-2's tensor names."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        d = CONFIG["n_embd"]
        self.ln_1, self.ln_2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.c_attn, self.attn_proj = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.c_fc, self.mlp_proj = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, seq, d = x.shape
        heads = (batch, seq, CONFIG["n_head"], d // CONFIG["n_head"])
        q, k, v = (
            t.view(heads).transpose(1, 2) for t in self.c_attn(self.ln_1(x)).split(d, dim=-1)
        )  # [batch, seq, 3 * d] -> 3 x [batch, head, seq, d_head]
        a = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.dropout(self.attn_proj(a.transpose(1, 2).reshape(batch, seq, d)))
        h = functional.gelu(self.c_fc(self.ln_2(x)), approximate="tanh")
        return x + self.dropout(self.mlp_proj(h))


class Gpt2(nn.Module):
    def __init__(self, dropout: float) -> None:
        super().__init__()
        d = CONFIG["n_embd"]
        self.wte = nn.Embedding(CONFIG["vocab_size"], d)
        self.wpe = nn.Embedding(CONFIG["n_positions"], d)
        self.h = nn.ModuleList(Block(dropout) for _ in range(CONFIG["n_layer"]))
        self.ln_f = nn.LayerNorm(d)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                # GPT-2's initialisation: residual projections shrink with depth.
                deep = math.sqrt(2 * CONFIG["n_layer"]) if "_proj" in name else 1.0
                nn.init.normal_(parameter, std=0.02 / deep)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.wte(tokens) + self.wpe.weight[: tokens.shape[1]]
        for block in self.h:
            x = block(x)
        return self.ln_f(x) @ self.wte.weight.T  # [batch, seq, d] -> [batch, seq, vocab]

    def to_hugging_face(self) -> dict[str, np.ndarray]:
        """Return tensors under Hugging Face's names, weights `[in, out]`, float16."""
        renames = {"attn_proj": "attn.c_proj", "mlp_proj": "mlp.c_proj"}
        renames |= {"c_attn": "attn.c_attn", "c_fc": "mlp.c_fc"}
        tensors = {}
        for name, parameter in self.state_dict().items():
            array = parameter.detach().float().numpy().astype(np.float16)
            for ours, theirs in renames.items():
                if f".{ours}." in name:
                    name = name.replace(ours, theirs)
                    array = array.T if array.ndim == 2 else array
            tensors["transformer." + name] = np.ascontiguousarray(array)
        return tensors


@torch.no_grad()
def validation_loss(model: Gpt2, tokens: np.ndarray) -> float:
    """Return the mean cross-entropy in nats per token over consecutive windows."""
    model.eval()
    n = CONFIG["n_positions"]
    count = (len(tokens) - 1) // n
    x = torch.from_numpy(tokens[: count * n].reshape(count, n))
    y = torch.from_numpy(tokens[1 : count * n + 1].reshape(count, n))
    losses = [
        functional.cross_entropy(model(xs).flatten(0, 1), ys.flatten(), reduction="sum").item()
        for xs, ys in zip(x.split(16), y.split(16), strict=True)
    ]
    model.train()
    return sum(losses) / (count * n)


def optimizers(model: Gpt2, rate: float) -> list[torch.optim.Optimizer]:
    """Return Muon for the blocks' matrices, and AdamW for everything else."""
    matrices = [p for p in model.h.parameters() if p.ndim == 2]
    chosen = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in chosen]
    return [
        torch.optim.Muon(matrices, lr=rate, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.95), weight_decay=0.01),
    ]


def train(args: argparse.Namespace) -> None:
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    novels = [read_novel(args.corpora / name) for name in NOVELS]
    cut = len(novels[0]) * 9 // 10
    held_out, novels[0] = novels[0][cut:], novels[0][:cut]
    tokenizer = train_tokenizer("".join(novels))
    ids = [np.array(tokenizer.encode(text).ids, np.int64) for text in novels]
    tokens = np.concatenate(ids)
    valid = np.array(tokenizer.encode(held_out).ids, np.int64)
    print(f"{len(tokens)} tokens to train on, {len(valid)} held out", flush=True)

    model = Gpt2(args.dropout)
    parts = optimizers(model, args.rate)
    n, start = CONFIG["n_positions"], time.time()
    warmup = 100
    for step in range(args.steps):
        cosine = 0.5 * (1 + math.cos(math.pi * step / args.steps))
        scale = min(1.0, (step + 1) / warmup) * (0.02 + 0.98 * cosine)
        offsets = rng.integers(0, len(tokens) - n - 1, (args.batch,))
        batch = torch.from_numpy(np.stack([tokens[o : o + n + 1] for o in offsets]))
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(batch[:, :-1])
        loss = functional.cross_entropy(logits.float().flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in parts:
            for group in optimizer.param_groups:
                group["lr"] = args.rate * scale
            optimizer.step()
            optimizer.zero_grad()
        last = step + 1 == args.steps
        if step % 20 == 0 or last:
            print(f"step {step} loss {loss.item():.3f} at {time.time() - start:.0f} s", flush=True)
        if step % 200 == 199 or last:
            print(f"step {step} validation {validation_loss(model, valid):.4f}", flush=True)
            save(model, tokenizer, args.output)


def save(model: Gpt2, tokenizer: Tokenizer, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(model.to_hugging_face(), folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    config = CONFIG | {"dtype": "float16"}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description="train the demo checkpoint")
    parser.add_argument("--corpora", type=Path, required=True, help="folder with the novels")
    parser.add_argument("--output", type=Path, default=DEMO)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=4e-3)
    parser.add_argument("--dropout", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=0)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
