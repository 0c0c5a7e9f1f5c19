import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbe_cli.compression.settings import (
    DEFAULT_PRESET,
    MAX_BITS,
    MIN_BPW,
    Override,
    Settings,
    load_config,
    load_preset,
    parse_override,
    preset_names,
)
from rbe_cli.errors import BadFileError, NotFoundError, RbeError, UsageError


def write(tmp_path, text):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return path


def one_sentence(error):
    """Return an error's message, after checking that it is a sentence on one line."""
    message = str(error.value)
    assert message
    assert "\n" not in message
    return message


def test_presets_are_those_that_were_promised():
    promised = {"micro": 1.5, "tiny": 2, "small": 3, "balanced": 4, "quality": 5}
    promised["near-lossless"] = 6
    fixed = {f"speed-{bits}bit": bits for bits in (2, 4, 8)}
    presets = {name: load_preset(name) for name in preset_names()}
    assert presets.keys() == (promised | fixed).keys()
    assert all(presets[name].target_bpw == bits for name, bits in promised.items())
    for name, bits in fixed.items():
        assert (presets[name].default_codec, presets[name].default_bits) == ("fixed", bits)
    assert DEFAULT_PRESET == "balanced"


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_is_valid_and_described(name):
    preset = load_preset(name)
    preset.check(name)
    assert preset.description
    assert "\n" not in preset.description


def test_presets_are_named_by_ascending_size():
    assert preset_names() == [
        *("micro", "tiny", "small", "balanced", "quality", "near-lossless"),
        *("speed-2bit", "speed-4bit", "speed-8bit"),
    ]


def test_a_pattern_that_a_later_python_may_read_otherwise_is_taken_without_a_warning():
    Settings(3.0, override=(Override("h.[[01]"),)).check("a test")  # a warning would be an error


@pytest.mark.parametrize("name", ["", "big", "balanced.toml", "../configs/tiny", "TINY"])
def test_an_unknown_preset_is_refused_with_those_that_exist(name):
    with pytest.raises(UsageError) as error:
        load_preset(name)
    assert one_sentence(error).startswith(f"there is no preset {name!r}; there are balanced, ")


def test_a_config_file_says_all_that_settings_can(tmp_path):
    path = write(
        tmp_path,
        """
        target_bpw = 3
        description = "mine"
        [[override]]
        match = 'h\\.0\\.'
        codec = "float32"
        [[override]]
        match = "wte"
        bits = 5.5
        """,
    )
    assert load_config(path) == Settings(
        3.0, "mine", (Override(r"h\.0\.", "float32"), Override("wte", bits=5.5))
    )


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "target_bpw"),
        ("target_bpw = 'four'", "target_bpw"),
        ("target_bpw = 4.0\nsize = 3", "size"),
        ("target_bpw = 0.5", "target_bpw = 0.5 is not 1.0 or more"),
        ("bits = 13", "bits = 13.0 is not between 1.0 and 12.0"),
        ("target_bpw = nan", "target_bpw = nan"),
        ("target_bpw = inf", "target_bpw = inf"),
        (f"target_bpw = 1{400 * '0'}", "target_bpw"),
        ("target_bpw = 4.0\noverride = 3", "override"),
        ("target_bpw = 4.0\n[[override]]\nbits = 5", "match"),
        ("target_bpw = 4.0\n[[override]]\nmatch = 'a'\nrate = 5", "rate"),
        ("target_bpw = 4.0\n[[override]]\nmatch = 'a'\ncodec = 'int4'", "codec"),
        ("target_bpw = 4.0\n[[override]]\nmatch = 'a'\nbits = 0.9", "bits = 0.9"),
        ("target_bpw = 4.0\n[[override]]\nmatch = 'a'\nbits = nan", "bits = nan"),
        ("target_bpw = 4.0\n[[override]]\nmatch = '('", "'(' is not a regular expression"),
        ("target_bpw = 4.0\n[[override]]\nmatch = 'a{9999999999}'", "is not a regular expression"),
    ],
)
def test_a_config_file_s_mistakes_are_named(tmp_path, text, named):
    path = write(tmp_path, text)
    with pytest.raises(UsageError) as error:
        load_config(path)
    message = one_sentence(error)
    assert named in message
    assert str(path) in message


@pytest.mark.parametrize(
    "text", ["target_bpw", "= 4", "[", "a = " + "[" * 5000, "a = " + "9" * 5000]
)
def test_a_file_that_is_not_toml_is_no_config_file(tmp_path, text):
    path = write(tmp_path, text)
    with pytest.raises(BadFileError) as error:
        load_config(path)
    assert str(path) in one_sentence(error)


def test_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(NotFoundError, match=r"no\.toml does not exist"):
        load_config(tmp_path / "no.toml")
    with pytest.raises(BadFileError, match="cannot be read"):
        load_config(tmp_path)
    latin = tmp_path / "latin.toml"
    latin.write_bytes(b"description = '\xe9'")
    with pytest.raises(BadFileError, match="cannot be read"):
        load_config(latin)


@given(
    content=st.binary(max_size=60)
    | st.text("[]=.'\"\n#ainftrue019-_:T", max_size=60).map(str.encode)
)
def test_no_file_escapes_the_tree_of_errors(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "fuzz.toml"
    path.write_bytes(content)
    with pytest.raises(RbeError):  # none of these is long enough to name a target
        load_config(path)


@pytest.mark.parametrize(
    ("text", "override"),
    [
        ("wte=bits=5", Override("wte", bits=5.0)),
        ("wte=bits=2.5", Override("wte", bits=2.5)),
        ("wte=codec=float16", Override("wte", "float16")),
        (r"h\.(0|1)\.=codec=float32", Override(r"h\.(0|1)\.", "float32")),
        ("a=b=codec=ectcq", Override("a=b", "ectcq")),
        ("(?=w)=bits=3", Override("(?=w)", bits=3.0)),
    ],
)
def test_an_override_is_parsed_from_its_end(text, override):
    assert parse_override(text) == override


@pytest.mark.parametrize(
    "text",
    [
        *("", "wte", "wte=5", "=bits=5", "bits=5", "wte=bits=5="),
        *("wte=size=5", "wte=match=x", "wte=bits=", "wte=bits=five", "wte=codec=int4"),
    ],
)
def test_an_override_of_another_form_is_refused(text):
    with pytest.raises(UsageError) as error:
        parse_override(text)
    assert f"`overrides` {text!r}" in one_sentence(error)


@pytest.mark.parametrize("text", ["wte=bits=nan", "wte=bits=inf", "wte=bits=0", "wte=bits=99"])
def test_bits_out_of_range_are_refused(text):
    with pytest.raises(UsageError, match="command line: bits = "):
        Settings(4.0, override=(parse_override(text),)).check("command line")


@pytest.mark.filterwarnings("ignore:Possible:FutureWarning")  # Python's hints on nested sets
@given(
    match=st.text(max_size=9) | st.text("()[]{}*+?|^$\\\\.a1,", max_size=9),
    key=st.sampled_from(["bits", "codec", "bit", ""]),
    value=st.sampled_from(["5", "1e1", "float16", "ectcq", "", "nan", "=", "\x00"]),
)
def test_no_override_escapes_the_tree_of_errors(match, key, value):
    try:
        override = parse_override(f"{match}={key}={value}")
        Settings(4.0, override=(override,)).check("command line")
    except UsageError:
        return
    assert override in (Override(match, bits=5.0), Override(match, bits=10.0)) or (
        override == Override(match, value)
    )


@given(st.floats())
def test_a_target_is_within_bounds_or_refused(target):
    settings = Settings(target)
    if MIN_BPW <= target < math.inf:
        settings.check("here")
    else:
        with pytest.raises(UsageError, match="here: target_bpw"):
            settings.check("here")


@given(st.floats())
def test_bits_of_a_matrix_are_within_bounds_or_refused(bits):
    for settings in (
        Settings(default_bits=bits),
        Settings(4.0, override=(Override("", bits=bits),)),
    ):
        if MIN_BPW <= bits <= MAX_BITS:
            settings.check("here")
        else:
            with pytest.raises(UsageError, match=r"here: bits = .* is not between"):
                settings.check("here")


# The classic scheme


@pytest.mark.parametrize(
    ("text", "override"),
    [
        (".*=codec=classic", Override(".*", "classic")),
        (".*=codec=classic,bits=3", Override(".*", "classic", 3.0)),
        ("a,b=block=16,bits=2.5,codec=classic", Override("a,b", "classic", 2.5, 16)),
        ("a=bits=3,b=block=16", Override("a=bits=3,b", block=16)),
    ],
)
def test_an_override_may_have_several_keys(text, override):
    assert parse_override(text) == override


@pytest.mark.parametrize(
    "text",
    ["wte=bits=3,", "wte=,bits=3", "wte=bits=3,bits=4", "wte=bits=3,size=4", "wte=block=1.5"],
)
def test_keys_that_are_none_or_come_twice_are_refused(text):
    with pytest.raises(UsageError) as error:
        parse_override(text)
    assert f"`overrides` {text!r}" in one_sentence(error)


@pytest.mark.parametrize("block", [15, 257, 0, -64])
def test_blocks_out_of_range_are_refused(block):
    for settings in (
        Settings(4.0, default_block=block),
        Settings(4.0, override=(Override("wte", "classic", block=block),)),
    ):
        with pytest.raises(UsageError, match=f"here: block = {block} is not between 16 and 256"):
            settings.check("here")


@pytest.mark.parametrize("pattern", ["(a+)+$", "(.*)*(.*)*x", "(a|a)*b", "(a*){9}", ".*.*.*.*.*x"])
def test_patterns_that_may_take_hours_are_refused(pattern):
    with pytest.raises(UsageError, match="it might take hours"):
        Settings(target_bpw=3.0, override=(Override(pattern, bits=4.0),)).check("x")


def test_a_config_file_has_a_limit(tmp_path):
    path = tmp_path / "big.toml"
    path.write_bytes(b"#" * ((1 << 16) + 1))
    with pytest.raises(BadFileError, match="has more than 65536 bytes"):
        load_config(path)
