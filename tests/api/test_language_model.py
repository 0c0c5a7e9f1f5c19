"""A loaded model: text, logits and perplexity, and the errors of its use."""

import threading
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pytest

import rbe_cli
from rbe_cli.api.generating import GenerationChoices
from rbe_cli.api.language_model import Prompt
from rbe_cli.container.reader import Container
from rbe_cli.engine.load import load_model
from rbe_cli.kernels.kernel_table import load_kernels
from rbe_cli.nn.gpt2 import Gpt2
from rbe_cli.progress import no_progress
from rbe_cli.text.generation_options import GenerationOptions

PROMPT = "The lamp was out"


def test_generate_gives_text_tokens_reason_and_statistics(model: rbe_cli.Model) -> None:
    found = model.generate(PROMPT, max_tokens=7, greedy=True, ignore_eos=True)
    assert len(found.tokens) == 7
    assert found.finish_reason == "length"
    assert found.text == model.decode([*model.encode(PROMPT), *found.tokens]).removeprefix(PROMPT)
    assert found.prompt_tokens == found.statistics.prefill_tokens == len(model.encode(PROMPT))
    assert found.statistics.time_to_first_token_seconds is not None


def test_greedy_text_takes_the_likeliest_tokens_of_the_logits(model: rbe_cli.Model) -> None:
    ids = model.encode(PROMPT)
    found = model.generate(ids, max_tokens=5, greedy=True, ignore_eos=True)
    logits = model.logits([*ids, *found.tokens])
    assert logits.argmax(axis=-1)[len(ids) - 1 : -1].tolist() == found.tokens


def test_the_steps_of_a_stream_make_up_the_text(model: rbe_cli.Model) -> None:
    stream = model.stream(PROMPT, max_tokens=9, seed=3)
    first = next(stream)
    steps = [first, *stream]
    expected = model.generate(PROMPT, max_tokens=9, seed=3)
    assert [step.token for step in steps] == expected.tokens
    assert "".join(step.text for step in steps) == expected.text
    assert (stream.results[0].tokens, stream.results[0].text) == (expected.tokens, expected.text)
    assert steps[-1].finish_reason == expected.finish_reason


def test_two_streams_that_alternate_do_not_disturb_each_other(model: rbe_cli.Model) -> None:
    alone = [model.generate(PROMPT, max_tokens=8, seed=seed).tokens for seed in (1, 2)]
    streams = [model.stream(PROMPT, max_tokens=8, seed=seed) for seed in (1, 2)]
    found: list[list[int]] = [[], []]
    for _ in range(8):
        for tokens, stream in zip(found, streams, strict=True):
            tokens += [step.token for step in [next(stream, None)] if step is not None]
    assert found == alone


def test_a_seed_repeats_a_text_and_another_changes_it(model: rbe_cli.Model) -> None:
    texts = [model.generate(PROMPT, max_tokens=20, seed=seed).tokens for seed in (5, 5, 6)]
    assert texts[0] == texts[1] != texts[2]


def test_stop_may_be_one_string(model: rbe_cli.Model) -> None:
    whole = model.generate(PROMPT, max_tokens=12, greedy=True, ignore_eos=True).text
    middle = whole[len(whole) // 2]
    found = model.generate(PROMPT, max_tokens=12, greedy=True, ignore_eos=True, stop=middle)
    assert found.finish_reason == "stop"
    assert found.text == whole[: whole.index(middle)]


def test_generate_takes_every_generation_option() -> None:
    choices, options = get_type_hints(GenerationChoices), get_type_hints(GenerationOptions)
    assert choices.keys() == options.keys()
    assert {n: t for n, t in choices.items() if n != "stop"} == {
        n: t for n, t in options.items() if n != "stop"
    }


def test_logits_are_those_of_the_layers(model: rbe_cli.Model, rbe_file: Path) -> None:
    ids = np.array([1, 5, 9, 200], np.int64)
    with Container.open(rbe_file) as container:
        loaded = load_model(container, 1, no_progress)
    network = Gpt2(loaded.config, loaded.weights, load_kernels("fast", 1))
    found = model.logits(ids)
    assert found.dtype == np.float32
    assert found.shape == (4, model.config.vocab_size)
    np.testing.assert_array_equal(found, network.forward(ids[None])[0])


def test_perplexity_is_the_exponential_of_the_mean_loss(model: rbe_cli.Model) -> None:
    ids = model.encode(PROMPT)
    scores = model.logits(ids)[:-1].astype(np.float64)
    scores -= np.log(np.exp(scores).sum(axis=-1, keepdims=True))
    loss = -scores[np.arange(len(ids) - 1), ids[1:]].mean()
    assert model.perplexity(PROMPT) == pytest.approx(np.exp(loss), rel=1e-6)
    assert model.perplexity(ids) == model.perplexity(PROMPT)


def test_perplexity_takes_windows(model: rbe_cli.Model) -> None:
    ids = np.arange(150) % model.config.vocab_size
    narrow = model.perplexity(ids, context=8)
    assert narrow != model.perplexity(ids, context=8, stride=4)
    assert np.isfinite(model.perplexity(ids))
    with pytest.raises(rbe_cli.UsageError, match="`context` 65 is not between 2 and the model's"):
        model.perplexity(ids, context=65)
    with pytest.raises(rbe_cli.UsageError, match="`stride` 9 is not between 1 and the context's 8"):
        model.perplexity(ids, context=8, stride=9)


def test_encode_and_decode_are_inverse(model: rbe_cli.Model) -> None:
    assert model.decode(model.encode(PROMPT)) == PROMPT


def test_two_threads_on_one_model_write_what_each_writes_alone(rbe_file: Path) -> None:
    with rbe_cli.load(rbe_file, threads=2) as model:
        prompts = ["The lamp", "A door opened and"]

        def text(prompt: str, seed: int) -> list[int]:
            return model.generate(prompt, max_tokens=16, seed=seed).tokens

        alone = [[text(prompt, seed) for seed in range(4)] for prompt in prompts]
        expected = model.logits([1, 2, 3])
        found: list[list[list[int]]] = [[], []]
        faults: list[BaseException] = []

        def write(index: int) -> None:
            try:
                for _ in range(3):
                    for seed in range(4):
                        found[index].append(text(prompts[index], seed))
                        np.testing.assert_array_equal(model.logits([1, 2, 3]), expected)
            except BaseException as error:
                faults.append(error)

        threads = [threading.Thread(target=write, args=(index,)) for index in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert faults == []
    assert found == [3 * own for own in alone]


def test_max_memory_is_a_limit(rbe_file: Path) -> None:
    with pytest.raises(rbe_cli.UsageError, match="MB more than"):
        rbe_cli.load(rbe_file, max_memory=1_000_000)
    with rbe_cli.load(rbe_file, max_memory=10**12) as model:
        assert model.coded_layers == 0
        assert model.logits([1, 2]).shape == (2, model.config.vocab_size)


@pytest.mark.parametrize(
    ("prompt", "sentence"),
    [
        ("", "the text is empty"),
        ([], "the prompt is empty"),
        ([[1, 2]], r"token ids are whole numbers \[n\], not int64 of shape \(1, 2\)"),
        ([0.5], "token ids are whole numbers"),
        ([10**6], "token id 1000000 is outside the vocabulary"),
        (list(range(70)), "the prompt has 70 tokens but the model's context holds 64"),
    ],
)
def test_a_prompt_that_cannot_be_continued(
    model: rbe_cli.Model, prompt: Prompt, sentence: str
) -> None:
    with pytest.raises(rbe_cli.UsageError, match=sentence):
        model.generate(prompt)


def test_an_option_out_of_range_is_named(model: rbe_cli.Model) -> None:
    with pytest.raises(rbe_cli.UsageError, match=r"top.p"):
        model.generate(PROMPT, top_p=2.0)
    with pytest.raises(TypeError, match="tmperature"):
        model.generate(PROMPT, tmperature=1.0)  # type: ignore[call-arg]


def test_a_closed_model_says_so(rbe_file: Path) -> None:
    with rbe_cli.load(rbe_file) as model:
        pass
    for use in (
        lambda: model.generate(PROMPT),
        lambda: model.logits([1]),
        lambda: model.parameters(),
        lambda: model.tensors["wte.weight"].read(),
    ):
        with pytest.raises(rbe_cli.UsageError, match="the model is closed"):
            use()


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(rbe_cli.NotFoundError, match=r"none\.rbe does not exist"):
        rbe_cli.load(tmp_path / "none.rbe")
