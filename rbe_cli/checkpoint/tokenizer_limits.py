"""Check the size of a tokenizer before the `tokenizers` library builds it.

The library takes about 300 bytes for a token, and grows a text by as much as its steps say: twice
by each of forty rules that replace `a` by `aa`. Both are bounded here.
"""

import base64
import binascii
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import Any

import msgspec

from rbe_cli.errors import CheckpointError
from rbe_cli.quoting import quoted

MAX_TOKENIZER_BYTES = 64 << 20  # of a tokenizer.json or a vocabulary
_COMMAS = 6  # of a tokenizer.json for each token: its entry, and two merges of two parts
_MERGES = 2  # for each token; those of Gemma are 2.2 for each of the model's own
_MAX_STEPS = 64  # of one part
_MAX_DEPTH = 8  # of sequences of steps within each other
_MAX_GROWTH = 1 << 13  # characters that one character becomes; ALBERT's rules allow 2,592
_MAX_REPETITIONS = 2  # in a regular expression that added tokens go through
_MAX_NORMALISING = 1 << 25  # steps of such expressions in all
_MAX_PIECES = 64  # of a template, and the tokens that it adds
# Characters that a step makes of one at most: `ﷺ` is 18 in compatibility form, `İ` is 2 in lower
# case, and a character is up to 4 bytes.
_GROWTHS = {
    **dict.fromkeys(("NFC", "NFD", "NFKC", "NFKD", "BertNormalizer"), 18),
    **{"Lowercase": 2, "Metaspace": 2, "ByteLevel": 4},
}
_PARTS = ("normalizer", "pre_tokenizer", "post_processor", "decoder")


def max_tokens(vocab_size: int) -> int:
    """Return how many tokens a tokenizer may have: more than its model, but not many times more."""
    return min(2 * vocab_size, 1 << 18) + (1 << 17)


def check_counts(tokens: int, merges: int, vocab_size: int) -> None:
    """Refuse a tokenizer that is much larger than its model's vocabulary.

    Args:
        tokens: in the tokenizer.
        merges: pairs of tokens.
        vocab_size: ids that the language model knows.

    Raises:
        CheckpointError: says how many there are.
    """
    limit = max_tokens(vocab_size)
    for count, most, name in ((tokens, limit, "tokens"), (merges, _MERGES * limit, "merges")):
        if count > most:
            raise CheckpointError(
                f"the tokenizer has {count} {name}, far too many for a model of {vocab_size} tokens"
            )


def check_ids(vocabulary: Mapping[str, object], vocab_size: int) -> None:
    """Refuse ids far beyond the model's: the library takes time and memory for all below them.

    Args:
        vocabulary: token -> id; what is no number is left to the library.
        vocab_size: ids that the language model knows.

    Raises:
        CheckpointError: says what the highest id is.
    """
    highest = max((number for number in vocabulary.values() if type(number) is int), default=0)
    if highest >= max_tokens(vocab_size):
        raise CheckpointError(
            f"the tokenizer has the id {highest}, far too high for a model of {vocab_size} tokens"
        )


def check_tokenizer_json(content: bytes, vocab_size: int) -> None:
    """Refuse a `tokenizer.json` that would take much time or memory.

    Other faults are left to the library, which knows the format.

    Args:
        content: the file's bytes.
        vocab_size: ids that the language model knows.

    Raises:
        CheckpointError: says what is too large.
    """
    if len(content) > MAX_TOKENIZER_BYTES:
        raise CheckpointError(f"the tokenizer has more than {MAX_TOKENIZER_BYTES} bytes")
    # Every entry has a comma before or after it; so this bounds what is decoded here.
    if content.count(b",") > _COMMAS * max_tokens(vocab_size):
        raise CheckpointError(
            f"the tokenizer is far larger than a vocabulary of {vocab_size} needs"
        )
    try:
        whole = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CheckpointError(f"the tokenizer cannot be read: {error}") from error
    if not isinstance(whole, dict):
        raise CheckpointError("the tokenizer cannot be read: it is not a JSON object")
    model = whole.get("model")
    if isinstance(model, dict):
        merges = _count(model.get("merges"))
        vocabulary = model.get("vocab")
        check_counts(_count(vocabulary), merges, vocab_size)
        if isinstance(vocabulary, dict):
            check_ids(vocabulary, vocab_size)
    check_counts(_count(whole.get("added_tokens")), 0, vocab_size)
    steps = {part: list(_steps(whole.get(part), _MAX_DEPTH)) for part in _PARTS}
    if any(len(own) > _MAX_STEPS for own in steps.values()):
        raise CheckpointError(f"the tokenizer has more than {_MAX_STEPS} steps in one part")
    before = [*steps["normalizer"], *steps["pre_tokenizer"]]
    decoder = [step for step in steps["decoder"] if step.get("type") == "Replace"]
    if max(prod(map(_growth, own)) for own in (before, decoder)) > _MAX_GROWTH:
        raise CheckpointError("the tokenizer may make a text many times as long as it is")
    if any(_pattern(step) for step in decoder):  # whose time nothing bounds
        raise CheckpointError("the tokenizer's decoder has a regular expression: refused")
    check_added_tokens(_texts(whole.get("added_tokens")), whole)
    for step in steps["post_processor"]:
        _check_template(step)


def check_added_tokens(contents: Sequence[str], tokenizer: Mapping[str, Any]) -> None:
    """Refuse added tokens that would take long to normalise: the library does it as it loads them.

    A regular expression without groups, which repeats two parts at most, takes as many steps as the
    cube of a text's length. Where it has more, nothing bounds its steps.

    Args:
        contents: texts of the tokens.
        tokenizer: a whole `tokenizer.json`, whose normaliser counts.

    Raises:
        CheckpointError: they are too long, or a regular expression is too complex.
    """
    steps = _steps(tokenizer.get("normalizer"), _MAX_DEPTH)
    patterns = [pattern for step in steps if (pattern := _pattern(step))]
    if not patterns:
        return
    for pattern in patterns:
        if "(" in pattern or sum(map(pattern.count, "*+{")) > _MAX_REPETITIONS:
            raise CheckpointError(
                f"the tokenizer's normaliser has the regular expression {quoted(pattern)}: only "
                "simple ones are allowed there"
            )
    if len(patterns) * sum(len(content) ** 3 for content in contents) > _MAX_NORMALISING:
        raise CheckpointError("the tokenizer's added tokens are too long for its normaliser")


def _count(entries: object) -> int:
    return len(entries) if isinstance(entries, dict | list) else 0


def _steps(part: object, depth: int) -> Iterator[dict[str, Any]]:
    """Yield the steps of a part, those of sequences in their place."""
    if not isinstance(part, dict):
        return
    if part.get("type") != "Sequence":
        yield part
        return
    if not depth:
        raise CheckpointError(f"the tokenizer has sequences that are nested over {_MAX_DEPTH} deep")
    for inner in part.values():
        for step in inner if isinstance(inner, list) else ():
            yield from _steps(step, depth - 1)


def _growth(step: dict[str, Any]) -> int:
    """Return how many characters a step makes of one at most."""
    match step:
        case {"type": "Replace", "pattern": {"String": str(pattern)}, "content": str(content)}:
            return -(-len(content) // len(pattern)) or 1 if pattern else 1 + len(content)
        case {"type": "Replace", "content": str(content)}:
            return 1 + len(content)
        case {"type": "Prepend", "prepend": str(prefix)}:
            return 1 + len(prefix)
        case {"type": "Precompiled", "precompiled_charsmap": str(charsmap)}:
            return _longest_replacement(charsmap)
        case {"type": str(kind)}:
            return _GROWTHS.get(kind, 1)
    return 1


def _longest_replacement(charsmap: str) -> int:
    """Return the characters of the longest text that compiled rules put in a character's place.

    The rules are a tree of characters, whose bytes are counted in the first four bytes, and the
    texts in their places, each with a zero behind it.
    """
    try:
        rules = base64.b64decode(charsmap, validate=True)
    except binascii.Error:
        return 1  # which the library refuses
    check_charsmap(rules)
    texts = rules[4 + int.from_bytes(rules[:4], "little") :].split(b"\0")
    return max(1, *(len(text.decode(errors="replace")) for text in texts))


def check_charsmap(rules: bytes) -> None:
    """Refuse compiled rules whose tree is said to be larger than they are.

    The library makes room for the whole tree at once, and ends the process if there is too little.

    Raises:
        CheckpointError: the tree is larger.
    """
    if int.from_bytes(rules[:4], "little") > max(0, len(rules) - 4):
        raise CheckpointError("the tokenizer's compiled rules are cut off")


def _pattern(step: dict[str, Any]) -> str | None:
    """Return the regular expression of a step; None if it has none."""
    pattern = step.get("pattern")
    found = pattern.get("Regex") if isinstance(pattern, dict) else None
    return found if isinstance(found, str) else None


def _texts(tokens: object) -> list[str]:
    """Return the texts of the added tokens of a `tokenizer.json`."""
    contents = (
        token.get("content")
        for token in (tokens if isinstance(tokens, list) else ())
        if isinstance(token, dict)
    )
    return [content for content in contents if isinstance(content, str)]


def _check_template(step: dict[str, Any]) -> None:
    """Refuse a template that repeats the text, or adds very many tokens."""
    if step.get("type") != "TemplateProcessing":
        return
    single, special = step.get("single"), step.get("special_tokens")
    pieces = single if isinstance(single, list) else []
    texts = sum(isinstance(piece, dict) and "Sequence" in piece for piece in pieces)
    added = special.values() if isinstance(special, dict) else ()
    ids = sum(_count(token.get("ids")) for token in added if isinstance(token, dict))
    if texts > 1 or len(pieces) > _MAX_PIECES or ids > _MAX_PIECES:
        raise CheckpointError("the tokenizer adds too much to every text")
