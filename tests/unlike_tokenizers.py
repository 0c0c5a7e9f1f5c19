"""Small tokenizers whose text depends on what stands before, one of each kind."""

from collections.abc import Callable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

WORDS = ("the", "cat", "sat", "on")


def byte_level() -> Tokenizer:
    """GPT-2's kind: each token is some bytes, and only bytes together give characters."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([*alphabet, "Ġt", "he", "Ġthe"])}
    merges = [("Ġ", "t"), ("h", "e"), ("Ġt", "he")]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    return tokenizer


def byte_fallback() -> Tokenizer:
    """SentencePiece's: words with their space, and bytes for what is not in the vocabulary."""
    tokenizer = Tokenizer(models.Unigram([*_pieces(), *_bytes()], unk_id=0, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*parts, decoders.Strip(" ", 1, 0)])
    return tokenizer


def metaspace() -> Tokenizer:
    """SentencePiece's without byte tokens."""
    tokenizer = Tokenizer(models.Unigram(_pieces(), unk_id=0))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return tokenizer


def word_piece() -> Tokenizer:
    """BERT's: a token is a word, or with ## the rest of one."""
    tokens = ["[UNK]", *WORDS, "##s", "##ly", ".", ",", "'", "s", "中", "文"]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def end_of_word() -> Tokenizer:
    """The first GPT's: a token that ends a word says so, and the space comes with the next."""
    tokens = ["t", "he", "the</w>", "cat</w>", "s</w>", ".</w>"]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], end_of_word_suffix="</w>"))
    tokenizer.decoder = decoders.BPEDecoder()
    return tokenizer


def without_decoder() -> Tokenizer:
    """One that joins its tokens with spaces."""
    return Tokenizer(models.WordLevel({"the": 0, "cat": 1, "sat": 2}, unk_token="the"))


def _pieces() -> list[tuple[str, float]]:
    words = [("▁" + word, -3.0) for word in WORDS]
    return [("<unk>", 0.0), ("▁", -2.0), *words, ("s", -4.0), ("▁▁", -5.0), ("文", -5.0)]


def _bytes() -> list[tuple[str, float]]:
    return [(f"<0x{byte:02X}>", -9.0) for byte in range(256)]


ALL: list[Callable[[], Tokenizer]] = [
    byte_level,
    byte_fallback,
    metaspace,
    word_piece,
    end_of_word,
    without_decoder,
]
