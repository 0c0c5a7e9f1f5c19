"""A small tokenizer for tests, trained on the spot."""

VOCAB_SIZE = 300
SENTENCES = [
    "The quick brown fox jumps over the lazy dog.",
    "Miss Brooke had that kind of beauty which seems to be thrown into relief by poor dress.",
    "It was the best of times, it was the worst of times.",
]


def train_tokenizer() -> bytes:
    """The `tokenizer.json` of a byte-level BPE as GPT-2's: bytes, and pairs of SENTENCES."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return tokenizer.to_str().encode()
