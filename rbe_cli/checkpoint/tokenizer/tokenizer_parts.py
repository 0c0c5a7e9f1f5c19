"""Build the tokenizers of GPT-2 and BERT from their vocabulary, and add special tokens.

Each tokenizer is the one that transformers 5 builds for the class of that name.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from rbe_cli.checkpoint.tokenizer.tokenizer_settings import STANDARD_ROLES, TokenizerSettings

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer, models

GPT2_TOKENS = dict.fromkeys(("unk_token", "bos_token", "eos_token"), "<|endoftext|>")
BERT_TOKENS = {
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}


def byte_level(model: "models.BPE", settings: TokenizerSettings, vocab_size: int) -> "Tokenizer":
    """Return GPT-2's tokenizer (Radford et al., 2019, section 2.2): BPE over bytes.

    Args:
        model: the vocabulary and its merges.
        settings: their `add_prefix_space` and special tokens count.
        vocab_size: of the language model (see `add_tokens`).
    """
    from tokenizers import Tokenizer, decoders, pre_tokenizers

    tokenizer = Tokenizer(model)
    prefix = settings.flag("add_prefix_space", False)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    tokenizer.decoder = decoders.ByteLevel()
    add_tokens(tokenizer, settings, GPT2_TOKENS, vocab_size)
    return tokenizer


def word_piece(
    vocabulary: Mapping[str, int], settings: TokenizerSettings, vocab_size: int
) -> "Tokenizer":
    """Return BERT's tokenizer: words, cut into the longest known pieces.

    `[CLS]` comes before each text and `[SEP]` after it, under whatever names the settings give.

    Args:
        vocabulary: token -> id.
        settings: their `do_lower_case`, `strip_accents`, `tokenize_chinese_chars` and special
            tokens count.
        vocab_size: of the language model (see `add_tokens`).
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    unknown = settings.content("unk_token", BERT_TOKENS["unk_token"])
    tokenizer = Tokenizer(models.WordPiece(dict(vocabulary), unk_token=str(unknown)))
    lowercase, accents = settings.flag("do_lower_case", True), settings.options.get("strip_accents")
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=settings.flag("tokenize_chinese_chars", True),
        # Where nothing is said, accents are stripped if letters become small.
        strip_accents=None if accents is None else settings.flag("strip_accents", False),
        lowercase=lowercase,
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    add_tokens(tokenizer, settings, BERT_TOKENS, vocab_size)
    first = settings.content("cls_token", BERT_TOKENS["cls_token"])
    last = settings.content("sep_token", BERT_TOKENS["sep_token"])
    surround(tokenizer, first, last)
    return tokenizer


def add_tokens(
    tokenizer: "Tokenizer",
    settings: TokenizerSettings,
    defaults: Mapping[str, str],
    vocab_size: int,
) -> None:
    """Add what the settings name, so that a text is cut around these tokens first.

    A token of the vocabulary keeps its id. Any other gets the next free one, whatever id a file
    gives: so it is in the reference library.

    Args:
        tokenizer: gets the tokens.
        settings: tokens that were added, and special tokens by role.
        defaults: special tokens of the tokenizer's class, for roles that the settings leave out.
            Where they are not in the vocabulary, they are added only below `vocab_size`.
        vocab_size: ids that the language model knows.
    """
    from tokenizers import AddedToken

    known = tokenizer.get_added_tokens_decoder().values()
    same = {repr(token) for token in known}
    wanted = [token for _, token in sorted(settings.added.items()) if repr(token) not in same]
    contents = {token.content for token in (*known, *wanted)}
    special = set()
    for role in dict.fromkeys((*STANDARD_ROLES, *settings.named)):
        token = settings.named.get(role)
        if role in defaults.keys() - settings.named.keys():
            content = defaults[role]
            if _has(tokenizer, content) or _next_id(tokenizer, wanted) < vocab_size:
                token = AddedToken(content, special=True)
        if token is not None:
            special.add(token.content)
        if token is not None and token.content not in contents:
            wanted.append(token)
            contents.add(token.content)
    wanted += [token for token in settings.extra if token.content not in contents]
    for token in wanted:
        token.special = token.special or token.content in special
    tokenizer.add_tokens(wanted)


def _next_id(tokenizer: "Tokenizer", wanted: "Iterable[AddedToken]") -> int:
    """Return the id that a new token would get after those that are to be added."""
    new = sum(not _has(tokenizer, token.content) for token in wanted)
    return tokenizer.get_vocab_size() + new


def add_ends(
    tokenizer: "Tokenizer", settings: TokenizerSettings, defaults: Mapping[str, str]
) -> None:
    """Let `add_bos_token` and `add_eos_token` decide what surrounds each text."""
    first, last = (
        settings.content(role, defaults.get(role)) if settings.flag(f"add_{role}", False) else None
        for role in ("bos_token", "eos_token")
    )
    surround(tokenizer, first, last)


def surround(tokenizer: "Tokenizer", first: str | None, last: str | None) -> None:
    """Put these tokens, where they exist, before and after each text that is encoded."""
    from tokenizers import processors

    parts = [
        part
        for part in (first, "$A", last)
        if part is not None and (part == "$A" or _has(tokenizer, part))
    ]
    if len(parts) > 1:
        ids = [(part, tokenizer.token_to_id(part)) for part in set(parts) - {"$A"}]
        tokenizer.post_processor = processors.TemplateProcessing(single=parts, special_tokens=ids)


def _has(tokenizer: "Tokenizer", token: str) -> bool:
    return tokenizer.token_to_id(token) is not None
