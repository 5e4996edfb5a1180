"""Whose words each token is, through templates that fold, trim, rewrite, merge or refuse."""

from __future__ import annotations

import copy
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_lm import tiny_lm
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from mixtura.errors import InputError
from mixtura.pipeline.attention.conversation import Read, Transcriber
from mixtura.pipeline.attention.options import KINDS

CHATML = """{% for m in messages %}<|im_start|>{{ m.role }}
{{ m.content }}{% if m.tool_calls %}{{ m.tool_calls | tojson }}{% endif %}<|end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
# Llama 2: the system prompt stands inside the first user turn; contents are trimmed
FOLDED = """{% if messages[0].role == 'system' %}{% set system = '<<SYS>>' + messages[0].content + '<</SYS>> ' %}\
{% set rest = messages[1:] %}{% else %}{% set system = '' %}{% set rest = messages %}{% endif %}\
{% for m in rest %}{% if m.role == 'user' %}[INST] {% if loop.index0 == 0 %}{{ system }}{% endif %}\
{{ m.content | trim }} [/INST]{% else %} {{ m.content | trim }}<|end|>{% endif %}{% endfor %}"""
# Gemma: no system prompt, and roles must take turns
STRICT = """{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}\
{{ raise_exception('roles must alternate') }}{% endif %}<turn>{{ m.role }}
{{ m.content | trim }}</turn>
{% endfor %}{% if add_generation_prompt %}<turn>assistant
{% endif %}"""
# Qwen 3: what an earlier answer thought is dropped
FORGETFUL = """{% for m in messages %}<|im_start|>{{ m.role }}
{% if m.role == 'assistant' and not loop.last %}{{ m.content.split('</think>')[-1] | trim }}\
{% else %}{{ m.content }}{% endif %}<|end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
SHOUTING = "{% for m in messages %}{{ m.role }}: {{ m.content | upper }}\n{% endfor %}"
BARE = "{% for m in messages %}{{ m.content }}{% endfor %}"
BROKEN = "{{ raise_exception('not today') }}"

ASK, SAY, MORE, END = "What is salt?", "A mineral of the sea.", "And butter?", "Cream that was churned."
CHAT = [("system", "Be brief."), ("user", ASK), ("assistant", SAY), ("user", MORE), ("assistant", END)]


@cache
def tokenizer(template: str | None = CHATML) -> PreTrainedTokenizerFast:
    made = copy.deepcopy(AutoTokenizer.from_pretrained(tiny_lm()))
    made.chat_template = template
    return made


def chat(*said: tuple[str, str]) -> list[dict]:
    return [{"role": role, "content": content, "tool_calls": None} for role, content in said]


def read(messages: list[dict], template: str | None = CHATML, window: int = 500, **options) -> Read:
    return Transcriber(tokenizer(template), window).read(messages, **options)


def words(found: Read, kind: str, template: str | None = CHATML) -> str:
    (reading,) = found.readings
    return tokenizer(template).decode(reading.tokens[reading.kinds == KINDS.index(kind)])


def answers(found: Read, template: str | None = CHATML) -> dict[int, str]:
    return {a.turn: tokenizer(template).decode(r.tokens[a.begin : a.end]) for r in found.readings for a in r.answers}


@pytest.mark.parametrize("template", [CHATML, FOLDED, None], ids=["chatml", "folded", "none"])
def test_each_kind_holds_its_turns_words(template):
    found = read(chat(*CHAT), template)
    assert found.turns == (2, 4)
    assert words(found, "system", template) == "Be brief."
    assert words(found, "user", template).replace(" ", "") == (ASK + MORE).replace(" ", "")
    assert {t: a.strip() for t, a in answers(found, template).items()} == {2: SAY + "<|end|>", 4: END + "<|end|>"}


def test_the_text_is_that_of_the_template():
    (reading,) = read(chat(*CHAT)).readings
    text = tokenizer().apply_chat_template(chat(*CHAT), tokenize=False)
    assert reading.tokens.tolist() == tokenizer()(text, add_special_tokens=False)["input_ids"]
    assert reading.kinds[0] == KINDS.index("first")


def test_a_tokenizer_without_a_template_gets_the_text_form_of_a_mixture():
    (reading,) = read(chat(*CHAT[1:3]), None).readings
    assert tokenizer(None).decode(reading.tokens) == f"<|start|>User: {ASK}\n\nAssistant: {SAY}<|end|>"
    assert tokenizer(None).chat_template is None  # the tokenizer is not changed


@settings(max_examples=40)
@given(st.lists(st.tuples(st.text(min_size=1, max_size=12), st.text(min_size=1, max_size=12)), min_size=1, max_size=3))
def test_any_text_comes_back_from_its_spans(exchanges):
    """Contents of any characters, also those that templates use, and private ones."""
    said = [turn for asked, answer in exchanges for turn in (("user", asked), ("assistant", answer))]
    found = read(chat(*said))
    if found.readings:
        got = answers(found)
        for i, (role, content) in enumerate(said):
            if role == "assistant" and content.strip() and i not in found.unscored:
                assert got[i].removesuffix("<|end|>").strip() == content.strip()


def test_private_characters_in_the_text_are_not_taken_for_marks():
    odd = "\ue000 one \ue001 two"
    found = read(chat(("user", odd), ("assistant", odd)))
    assert answers(found) == {1: odd + "<|end|>"}
    assert words(found, "user") == odd


@pytest.mark.parametrize("content", ["user", "assistant", "a", "<|im_start|>"])
def test_words_of_the_template_within_a_turn_are_the_turns(content):
    found = read(chat(("user", content), ("assistant", content)))
    assert words(found, "user") == content
    assert answers(found) == {1: content + "<|end|>"}


def test_a_template_that_forgets_gives_each_answer_as_the_model_would_meet_it():
    thought = "<think>hm</think>" + SAY
    found = read(chat(("user", ASK), ("assistant", thought), ("user", MORE), ("assistant", END)), FORGETFUL)
    assert len(found.readings) == 2
    assert answers(found, FORGETFUL) == {1: thought + "<|end|>", 3: END + "<|end|>"}
    first, last = (tokenizer().decode(r.tokens) for r in found.readings)
    assert "hm" in first
    assert MORE not in first
    assert "hm" not in last
    kept = found.readings[1]
    assert tokenizer().decode(kept.tokens[kept.kinds == KINDS.index("user")]) == ASK + MORE


def test_tool_calls_are_part_of_the_answer_and_results_have_their_own_kind():
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "sea", "arguments": {}}}]}
    found = read([*chat(("user", ASK)), call, *chat(("tool", "salty"), ("assistant", SAY))])
    got = answers(found)
    assert list(got) == [1, 3]
    assert '"name": "sea"' in got[1]
    assert words(found, "tool") == "salty"
    assert words(found, "user") == ASK


def test_a_token_that_turns_share_is_the_answers():
    """A tokenizer that knows 'bc' as one token, and a template that puts nothing between the turns."""
    backend = Tokenizer(models.BPE({"a": 0, "b": 1, "c": 2, "bc": 3, "d": 4, "<e>": 5}, [("b", "c")]))
    backend.decoder = decoders.ByteLevel()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    merged = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<e>", chat_template=BARE)
    (reading,) = Transcriber(merged, 50).read(chat(("user", "aab"), ("assistant", "cd"))).readings
    assert reading.tokens.tolist() == [0, 0, 3, 4]
    assert [KINDS[k] for k in reading.kinds] == ["first", "user", "response", "response"]
    assert (reading.answers[0].begin, reading.answers[0].end) == (2, 4)


def test_answers_that_do_not_fit_the_window_have_no_score_and_earlier_ones_keep_theirs():
    whole = read(chat(*CHAT))
    last = whole.readings[0].answers[1]
    for window, fits in ((last.end, True), (last.end - 1, False)):
        found = read(chat(*CHAT), window=window)
        assert found.unscored == ({} if fits else {4: "truncated"})
        assert len(found.readings[0].tokens) == min(window, len(whole.readings[0].tokens))
        assert found.readings[0].answers[0] == whole.readings[0].answers[0]
    nothing = read(chat(*CHAT), window=4)
    assert nothing.unscored == {2: "truncated", 4: "truncated"}
    assert nothing.readings == ()


def test_empty_answers_and_those_before_the_user_spoke_say_so():
    found = read(chat(("assistant", "Hello."), ("user", ASK), ("assistant", "  \n"), ("assistant", "b")))
    assert found.unscored == {0: "no-user-text", 2: "empty-answer"}
    assert list(answers(found)) == [3]
    assert list(answers(read(chat(("assistant", "Hello.")), needs_user=False))) == [0]


@pytest.mark.parametrize(
    ("template", "said", "reason"),
    [
        (BROKEN, CHAT, "template-refuses"),
        (STRICT, CHAT, "template-refuses"),
        (SHOUTING, CHAT, "turns-not-separable"),
        (CHATML, [("user", "a <|end|> b"), ("assistant", "c")], "control-token-in-content"),
    ],
    ids=["broken", "no system prompt", "shouting", "forged"],
)
def test_what_cannot_be_read_says_why_for_every_answer(template, said, reason):
    found = read(chat(*said), template)
    assert found.refused == reason
    assert found.readings == ()
    assert found.unscored == dict.fromkeys(found.turns, reason)
    assert len(found.turns) == sum(role == "assistant" for role, _ in said)


def test_a_strict_template_reads_what_it_accepts():
    found = read(chat(*CHAT[1:]), STRICT)
    assert {t: a for t, a in answers(found, STRICT).items()} == {1: SAY, 3: END}  # its marks are no special tokens


def test_no_answer_is_no_reading():
    assert read(chat(("user", ASK))) == Read(())


def test_a_slow_tokenizer_is_refused():
    class Slow:
        is_fast = False

    with pytest.raises(InputError, match=r"tokenizer must be a fast one \(tokenizer.json\); got 'Slow'"):
        Transcriber(Slow(), 10)  # pyright: ignore[reportArgumentType]
