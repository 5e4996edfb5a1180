import re
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixtura.errors import CountError, InputError
from mixtura.trainer.chat import TEMPLATE, Chat, Refused
from mixtura.trainer.encode import encode
from mixtura.trainer.mixture import Row
from mixtura.trainer.model import train_tokenizer

CHATML = """{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""
# like templates of reasoning models: what an earlier turn thought is dropped
FORGETFUL = """{% for m in messages %}{% if m.role == 'assistant' and not loop.last %}\
{{ '[A]' + m.content.split('</think>')[-1] + '[E]' }}{% elif m.role == 'assistant' %}{{ '[A]' + m.content + '[E]' }}\
{% else %}{{ '[U]' + m.content + '[E]' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '[A]' }}{% endif %}"""
# the answer is folded into the prompt: no prefix
TANGLED = "{{ messages | map(attribute='content') | join('/') }}{% if add_generation_prompt %}:{% endif %}"
STRICT = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + CHATML

TALK = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "What is a cat?"},
    {"role": "assistant", "content": "An animal."},
    {"role": "user", "content": "And naïve 日本?"},
    {"role": "assistant", "content": "Words 🎉."},
]

# function-scoped fixtures do not mix with @given
TOKENIZER = train_tokenizer(["the cat sat on the mat " * 9, "日本語 naïve 🎉 🎉"], 320)


def chat_with(template: str | None) -> Chat:
    chat = Chat(TOKENIZER)
    chat.tokenizer.chat_template = template or TEMPLATE
    return chat


def parts(encoded):
    return [encoded[i] for i in range(len(encoded))]


def trained_text(encoded) -> list[str]:
    """Runs of trained tokens, decoded."""
    runs = []
    for tokens, trained in parts(encoded):
        edges = np.flatnonzero(np.diff(trained, prepend=False, append=False))
        runs += [TOKENIZER.decode(tokens[a:b].tolist()) for a, b in zip(edges[::2], edges[1::2], strict=True)]
    return runs


texts = st.text(min_size=1, max_size=60).filter(lambda t: t.isprintable())


@given(st.lists(texts, min_size=1, max_size=8), st.integers(2, 30))
def test_every_token_of_a_document_is_predicted_once_whatever_the_length(rows, length):
    encoded = encode([Row(text=t) for t in rows], chat_with(None), length=length, loss="completion")
    assert all(len(tokens) <= length for tokens, _ in parts(encoded))
    predicted = np.concatenate([tokens[trained] for tokens, trained in parts(encoded)])
    assert TOKENIZER.decode(predicted.tolist()) == "".join(t + "<|end|>" for t in rows)
    alone = [TOKENIZER(t, add_special_tokens=False, split_special_tokens=True)["input_ids"] for t in rows]
    assert encoded.counts.trained_tokens == len(predicted) == sum(len(ids) + 1 for ids in alone)
    assert encoded.counts.trained_bytes == sum(len(t.encode()) for t in rows)
    assert encoded.counts.encoded == encoded.counts.rows == len(rows)


@given(st.integers(2, 12))
def test_a_piece_begins_with_the_token_before_it(length):
    encoded = encode([Row(text="the cat sat on the mat " * 4)], chat_with(None), length=length, loss="all")
    pieces = parts(encoded)
    assert len(pieces) > 1
    for (before, _), (after, trained) in pairwise(pieces):
        assert before[-1] == after[0]
        assert not trained[0]


def test_a_document_may_spell_out_a_control_token():
    encoded = encode([Row(text="see <|end|> here")], chat_with(None), length=64, loss="all")
    ids = encoded.tokens.tolist()
    assert ids.count(TOKENIZER.eos_token_id) == 1
    assert ids[-1] == TOKENIZER.eos_token_id
    assert TOKENIZER.decode(ids[1:-1]) == "see <|end|> here"


def test_only_answers_and_their_ends_are_trained_on():
    encoded = encode([Row(messages=TALK)], chat_with(None), length=256, loss="completion")
    assert trained_text(encoded) == ["An animal.<|end|>", "Words 🎉.<|end|>"]
    assert encoded.counts.trained_bytes == len("An animal.Words 🎉.".encode())


def test_loss_on_all_leaves_out_the_first_token_only():
    encoded = encode([Row(messages=TALK)], chat_with(None), length=256, loss="all")
    assert encoded.counts.trained_tokens == encoded.counts.tokens - 1


@given(st.lists(texts.filter(lambda t: "<|" not in t), min_size=2, max_size=6))
def test_prefix_differences_agree_with_the_template_s_own_marks(contents):
    talk = [{"role": ("user", "assistant")[i % 2], "content": c.strip() or "x"} for i, c in enumerate(contents)]
    plain = re.sub(r"\{%-? (end)?generation %\}", "", TEMPLATE)
    marked, unmarked = (
        encode([Row(messages=talk)], chat_with(t), length=4096, loss="completion") for t in (TEMPLATE, plain)
    )
    assert marked.tokens.tolist() == unmarked.tokens.tolist()
    assert marked.trained.tolist() == unmarked.trained.tolist()
    answers = "".join(m["content"] for m in talk[1::2])
    assert marked.counts.trained_bytes == unmarked.counts.trained_bytes == len(answers.encode())


def test_chatml_worked_out_by_hand():
    encoded = encode([Row(messages=TALK)], chat_with(CHATML), length=1024, loss="completion")
    assert trained_text(encoded) == ["An animal.<|im_end|>\n", "Words 🎉.<|im_end|>\n"]


def test_a_template_that_rewrites_the_past_gives_one_example_an_answer():
    talk = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "hm</think>b"},
        {"role": "user", "content": "c"},
        {"role": "assistant", "content": "so</think>d"},
    ]
    encoded = encode([Row(messages=talk)], chat_with(FORGETFUL), length=256, loss="completion")
    assert [TOKENIZER.decode(t.tolist()) for t, _ in parts(encoded)] == [
        "[U]a[E][A]hm</think>b[E]",
        "[U]a[E][A]b[E][U]c[E][A]so</think>d[E]",
    ]
    assert trained_text(encoded) == ["hm</think>b[E]", "so</think>d[E]"]
    assert encoded.counts.encoded == 1


@pytest.mark.parametrize(
    ("reason", "template", "messages"),
    [
        ("template-refuses", STRICT, TALK),
        ("template-refuses", None, [{"role": "robot", "content": "x"}, {"role": "assistant", "content": "y"}]),
        ("answer-not-separable", TANGLED, TALK),
        ("no-answer", None, TALK[:2]),
        ("control-token-in-content", None, [{"role": "user", "content": "<|assistant|>I agree"}, TALK[2]]),
        ("answer-beyond-sequence-length", None, [{"role": "user", "content": "long " * 300}, TALK[2]]),
    ],
)
def test_what_cannot_be_trained_on_is_counted_not_trained_on(reason, template, messages):
    rows = [Row(messages=messages), Row(text="fine"), Row()]
    encoded = encode(rows, chat_with(template), length=256, loss="completion")
    facts = encoded.counts.facts()
    assert facts["skipped"] == {"empty": 1, reason: 1}
    assert (facts["rows"], facts["encoded"], len(encoded)) == (3, 1, 1)


def test_a_conversation_that_loses_its_end_is_counted():
    talk = [*TALK[:3], {"role": "user", "content": "long " * 300}, TALK[4]]
    encoded = encode([Row(messages=talk)], chat_with(None), length=128, loss="completion")
    assert encoded.counts.truncated == 1
    assert trained_text(encoded) == ["An animal.<|end|>"]


def test_tool_calls_are_part_of_the_answer():
    call = [{"type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}]
    talk = [{"role": "user", "content": "?"}, {"role": "assistant", "tool_calls": call}]
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {}}}]
    encoded = encode([Row(messages=talk, tools=tools)], chat_with(None), length=1024, loss="completion")
    (answer,) = trained_text(encoded)
    assert '"name": "weather"' in answer
    assert '"Oslo"' in answer
    assert TOKENIZER.decode(encoded.tokens.tolist()).startswith("<|start|><|tool|>[{")


def test_the_books_must_balance():
    encoded = encode([Row(text="a")], chat_with(None), length=8, loss="all")
    encoded.counts.rows += 1
    with pytest.raises(CountError):
        encoded.counts.facts()


def test_a_tokenizer_without_an_end_is_refused():
    tokenizer = train_tokenizer(["abc"], 300)
    tokenizer.eos_token = None
    with pytest.raises(InputError, match="must have an end token"):
        Chat(tokenizer)


def test_refused_says_why():
    with pytest.raises(Refused, match=r"template-refuses: no system role"):
        chat_with(STRICT).encode(Row(messages=TALK), answers_only=True)
