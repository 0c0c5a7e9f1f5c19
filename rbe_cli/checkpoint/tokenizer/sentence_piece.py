"""Build the tokenizer of a SentencePiece model, with the rules that its class adds.

Without such rules the ids are those of the SentencePiece library itself (Kudo and Richardson,
2018), but for texts that spell out a control symbol such as `<s>`: they give its id, as in
transformers.
"""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rbe_cli.checkpoint.tokenizer.sentence_piece_model import (
    Algorithm,
    Piece,
    PieceType,
    SentencePieceModel,
)
from rbe_cli.checkpoint.tokenizer.tokenizer_parts import add_ends, add_tokens, surround
from rbe_cli.checkpoint.tokenizer.tokenizer_settings import (
    TokenizerSettings,
    UnsupportedTokenizerError,
)
from rbe_cli.checkpoint.tokenizer_limits import check_charsmap

if TYPE_CHECKING:
    from tokenizers import Tokenizer, decoders, models, normalizers

_SPACE = "▁"  # stands for a space in pieces
_ALBERT, _LLAMA, _T5, _XLM_ROBERTA, _GPT_SW3 = (
    "AlbertTokenizer",
    "LlamaTokenizer",
    "T5Tokenizer",
    "XLMRobertaTokenizer",
    "GPTSw3Tokenizer",
)
# Classes whose rules are applied. The ids of any other class are the model's own.
SENTENCE_PIECE_CLASSES = (_ALBERT, _LLAMA, _T5, _XLM_ROBERTA, _GPT_SW3)
_T5_EXTRA_IDS = 100
_GPT_SW3_TOKENS = {
    "eos_token": "<|endoftext|>",
    "unk_token": "<unk>",
    "pad_token": "<pad>",
    "bos_token": "<s>",
}


def sentence_piece(
    model: SentencePieceModel, settings: TokenizerSettings, vocab_size: int
) -> "Tokenizer":
    """Return the tokenizer of a SentencePiece model.

    Args:
        model: its pieces and rules.
        settings: their class, options and special tokens count.
        vocab_size: ids that the language model knows; see `add_tokens`.

    Raises:
        UnsupportedTokenizerError: it is of a kind that `tokenizers` cannot imitate.
        CheckpointError: its compiled rules are cut off.
    """
    from tokenizers import AddedToken

    check_charsmap(model.charsmap)
    if model.algorithm is Algorithm.WORD:
        raise UnsupportedTokenizerError("is a SentencePiece model of whole words")
    if model.space_is_suffix:
        raise UnsupportedTokenizerError("is a SentencePiece model with spaces after words")
    if settings.class_name == _ALBERT:
        return _albert(model, settings, vocab_size)
    if settings.class_name == _T5:
        return _t5(model, settings, vocab_size)
    if settings.class_name == _XLM_ROBERTA:
        return _xlm_roberta(model, settings, vocab_size)
    if settings.class_name == _LLAMA:
        return _llama(model, settings, vocab_size)
    tokenizer = _plain(model, settings)
    if settings.class_name == _GPT_SW3:
        add_tokens(tokenizer, settings, _GPT_SW3_TOKENS, vocab_size)
        return tokenizer
    roles = (("unk_token", model.unk_id), ("bos_token", model.bos_id), ("eos_token", model.eos_id))
    defaults = {role: model.pieces[place].text for role, place in roles if place >= 0}
    add_tokens(tokenizer, settings, defaults, vocab_size)
    control = _texts(model, PieceType.CONTROL)
    tokenizer.add_tokens([AddedToken(text, special=True) for text in control])
    add_ends(tokenizer, settings, defaults)
    return tokenizer


def _plain(model: SentencePieceModel, settings: TokenizerSettings) -> "Tokenizer":
    """Return a tokenizer that works as the SentencePiece library does.

    The class of GPT-SW3 cleans texts first.
    """
    from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers

    user_defined = _texts(model, PieceType.USER_DEFINED)
    tokenizer = Tokenizer(_cutter(model, whole=bool(user_defined)))
    is_first_only = not settings.flag("legacy", True)
    steps: list[normalizers.Normalizer] = []
    if settings.class_name == _GPT_SW3:
        steps += _gpt_sw3_cleaning()
    if model.charsmap:
        steps.append(normalizers.Precompiled(model.charsmap))
    if model.remove_extra_whitespaces:
        steps.append(normalizers.Replace(Regex(r"\A +| +\z"), ""))
        steps.append(normalizers.Replace(Regex(" {2,}"), " "))
    if model.escape_whitespaces:
        steps.append(normalizers.Replace(" ", _SPACE))
    if model.add_dummy_prefix and not is_first_only:
        # `Metaspace` adds no space before one that is there already; SentencePiece does.
        steps.append(normalizers.Replace(Regex(rf"\A{_SPACE}"), 2 * _SPACE))
    tokenizer.normalizer = normalizers.Sequence(steps)
    cuts: list[pre_tokenizers.PreTokenizer] = []
    if model.add_dummy_prefix:
        scheme = "first" if is_first_only else "always"
        cuts.append(pre_tokenizers.Metaspace(_SPACE, prepend_scheme=scheme, split=False))
    if user_defined:
        longest_first = sorted(user_defined, key=len, reverse=True)
        pattern = Regex("|".join(re.escape(text) for text in longest_first))
        cuts.append(pre_tokenizers.Split(pattern, "isolated"))
    if cuts:
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(cuts)
    tokenizer.decoder = decoders.Sequence(_joins(model.byte_fallback, model.add_dummy_prefix))
    return tokenizer


def _albert(model: SentencePieceModel, settings: TokenizerSettings, vocab_size: int) -> "Tokenizer":
    """Return ALBERT's: lower case without accents, `[CLS]` before and `[SEP]` after each text."""
    from tokenizers import normalizers

    defaults = {
        "bos_token": "[CLS]",
        "eos_token": "[SEP]",
        "unk_token": "<unk>",
        "sep_token": "[SEP]",
        "pad_token": "<pad>",
        "cls_token": "[CLS]",
        "mask_token": "[MASK]",
    }
    prefix = settings.flag("add_prefix_space", True)
    tokenizer = _word_by_word(model, model.pieces, model.unk_id, prefix)
    steps: list[normalizers.Normalizer] = [
        normalizers.Replace("``", '"'),
        normalizers.Replace("''", '"'),
    ]
    if not settings.flag("keep_accents", False):
        steps += [normalizers.NFKD(), normalizers.StripAccents()]
    if settings.flag("do_lower_case", True):
        steps.append(normalizers.Lowercase())
    if model.charsmap:
        steps.append(normalizers.Precompiled(model.charsmap))
    tokenizer.normalizer = normalizers.Sequence(steps)
    _add_tokens(tokenizer, model, settings, defaults, vocab_size)
    first, last = (settings.content(name, defaults[name]) for name in ("cls_token", "sep_token"))
    surround(tokenizer, first, last)
    return tokenizer


def _t5(model: SentencePieceModel, settings: TokenizerSettings, vocab_size: int) -> "Tokenizer":
    """Return T5's: extra pieces at the end of the vocabulary, and `</s>` after each text."""
    from tokenizers import AddedToken

    count = settings.options.get("extra_ids")
    count = _T5_EXTRA_IDS if not isinstance(count, int) else min(count, 1 << 24)
    last = max(0, count - max(0, vocab_size - len(model.pieces)))
    extra = [f"<extra_id_{number}>" for number in range(count - 1, last - 1, -1)]
    pieces = [*model.pieces, *(Piece(text, 0.0, PieceType.CONTROL) for text in extra)]
    tokenizer = _word_by_word(model, pieces, model.unk_id, prefix=True)
    tokenizer.add_tokens([AddedToken(text, special=True) for text in extra])
    defaults = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    _add_tokens(tokenizer, model, settings, defaults, vocab_size)
    surround(tokenizer, None, settings.content("eos_token", defaults["eos_token"]))
    return tokenizer


def _xlm_roberta(
    model: SentencePieceModel, settings: TokenizerSettings, vocab_size: int
) -> "Tokenizer":
    """Return XLM-RoBERTa's: four special tokens for the first three pieces, and a mask."""
    defaults = {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "sep_token": "</s>",
        "cls_token": "<s>",
        "unk_token": "<unk>",
        "pad_token": "<pad>",
        "mask_token": "<mask>",
    }
    names = ("bos_token", "pad_token", "eos_token", "unk_token", "mask_token")
    *first, mask = (
        Piece(str(settings.content(name, defaults[name])), 0.0, PieceType.CONTROL) for name in names
    )
    prefix = settings.flag("add_prefix_space", True)
    tokenizer = _word_by_word(model, [*first, *model.pieces[3:], mask], 3, prefix)
    _add_tokens(tokenizer, model, settings, defaults, vocab_size)
    surround(tokenizer, first[0].text, first[2].text)
    return tokenizer


def _llama(model: SentencePieceModel, settings: TokenizerSettings, vocab_size: int) -> "Tokenizer":
    """Return Llama's: BPE with bytes, and `<s>` before each text if `add_bos_token` says so."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    vocabulary = {piece.text: number for number, piece in enumerate(model.pieces)}
    merges = _merges(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, fuse_unk=True, byte_fallback=True))
    prefix = settings.flag("add_prefix_space", True)
    scheme = ("always" if settings.flag("legacy", False) else "first") if prefix else "never"
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(_SPACE, prepend_scheme=scheme, split=False)
    tokenizer.decoder = decoders.Sequence(_joins(byte_fallback=True, strip=prefix))
    defaults = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    _add_tokens(tokenizer, model, settings, defaults, vocab_size)
    add_ends(tokenizer, settings, defaults)
    return tokenizer


def _word_by_word(
    model: SentencePieceModel, pieces: Sequence[Piece], unk_id: int, prefix: bool
) -> "Tokenizer":
    """Return steps that split a text at white space, and put a space before each word."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    scores = [(piece.text, piece.score) for piece in pieces]
    tokenizer = Tokenizer(models.Unigram(scores, unk_id=unk_id))
    if model.charsmap:
        tokenizer.normalizer = normalizers.Precompiled(model.charsmap)
    scheme = "always" if prefix else "never"
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Metaspace(_SPACE, prepend_scheme=scheme),
        ]
    )
    tokenizer.decoder = decoders.Metaspace(_SPACE, prepend_scheme=scheme)
    return tokenizer


def _cutter(model: SentencePieceModel, *, whole: bool) -> "models.Model":
    """Return the algorithm that cuts normalised text; `whole` keeps what is a piece already."""
    from tokenizers import models

    pieces = model.pieces
    if model.algorithm is Algorithm.UNIGRAM:
        scores = [(piece.text, piece.score) for piece in pieces]
        unk_id = model.unk_id if model.unk_id >= 0 else None
        return models.Unigram(scores, unk_id=unk_id, byte_fallback=model.byte_fallback)
    vocabulary = {piece.text: number for number, piece in enumerate(pieces)}
    normal = {
        piece.text: (-piece.score, number)
        for number, piece in enumerate(pieces)
        if piece.type is PieceType.NORMAL
    }
    unknown = pieces[model.unk_id].text if model.unk_id >= 0 else None
    return models.BPE(
        vocabulary,
        _merges(normal) if model.algorithm is Algorithm.BPE else [],
        unk_token=unknown,
        fuse_unk=True,
        byte_fallback=model.byte_fallback,
        ignore_merges=whole,
    )


def _merges(ranks: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return all pairs of tokens that join to a token, ordered by the rank of that token."""
    pairs = [
        (rank, split, text)
        for text, rank in ranks.items()
        for split in range(1, len(text))
        if text[:split] in ranks and text[split:] in ranks
    ]
    return [(text[:split], text[split:]) for _, split, text in sorted(pairs)]


def _joins(byte_fallback: bool, strip: bool) -> "list[decoders.Decoder]":
    """Return the steps from pieces to a text, without the space that was put before it."""
    from tokenizers import decoders

    steps: list[decoders.Decoder] = [decoders.Replace(_SPACE, " ")]
    if byte_fallback:
        steps.append(decoders.ByteFallback())
    if byte_fallback or strip:
        steps.append(decoders.Fuse())
    if strip:
        steps.append(decoders.Strip(" ", 1, 0))
    return steps


def _add_tokens(
    tokenizer: "Tokenizer",
    model: SentencePieceModel,
    settings: TokenizerSettings,
    defaults: Mapping[str, str],
    vocab_size: int,
) -> None:
    """Add the tokens of the settings, and the model's own symbols, which are never cut."""
    from tokenizers import AddedToken

    add_tokens(tokenizer, settings, defaults, vocab_size)
    control, user_defined = (
        _texts(model, kind) for kind in (PieceType.CONTROL, PieceType.USER_DEFINED)
    )
    tokenizer.add_tokens([AddedToken(text, special=True) for text in control])
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in user_defined])


def _texts(model: SentencePieceModel, kind: PieceType) -> list[str]:
    return [piece.text for piece in model.pieces if piece.type is kind]


def _gpt_sw3_cleaning() -> "list[normalizers.Normalizer]":
    """Return GPT-SW3's cleaning: drop what is not printed, unify white space, and compose."""
    from tokenizers import Regex, normalizers

    dropped = [*range(9), *range(11, 32), *range(127, 160), 160, 173, 8203]
    spaces = "\u2002\u2003\u2005\u2008\u2009\u200a\u202f\u3000\ufffc"
    return [
        normalizers.Replace(Regex(f"[{''.join(map(chr, dropped))}]"), ""),
        normalizers.Replace(Regex(f"[{spaces}]"), " "),
        normalizers.NFC(),
    ]
