"""Kept replies: nothing is asked twice, nothing stale is given, and a broken run continues where it was."""

from __future__ import annotations

import pytest
from scripted import Scripted, reply_of

from mixtura.errors import InputError
from mixtura.generation.cached import Cached
from mixtura.generation.contract import Ask, Generator, Judge, Likelihood

OPTIONS = {"samples": 2, "max_tokens": 9, "temperature": 1.0, "seed": 5}
CALL = '[{"type": "function", "function": {"name": "add", "arguments": "{\\"a\\": 1}"}}]'


def asks(n: int) -> list[Ask]:
    return [Ask([{"role": "user", "content": f"question {i}"}]) for i in range(n)]


def echo(ask: Ask, sample: int, seed: int) -> str:
    return f"{ask.messages[-1]['content']} {sample} {seed} é🙂"


def test_a_row_s_json_columns_become_objects():
    ask = Ask.of([{"role": "user", "content": "add", "tool_calls": None}, {"role": "assistant", "content": None,
                 "tool_calls": CALL}], tools='[{"name": "add"}]')  # fmt: skip
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    assert ask == Ask(
        [{"role": "user", "content": "add"}, {"role": "assistant", "tool_calls": [call]}], [{"name": "add"}]
    )
    with pytest.raises(InputError, match=r"column 'tools' must hold JSON; got '\{'"):
        Ask.of([], tools="{")


def test_what_was_asked_once_is_never_asked_again(tmp_path):
    inner = Scripted(echo)
    first = Cached(inner, tmp_path).replies(asks(3), **OPTIONS)
    assert inner.asked == 3
    again = Cached(inner, tmp_path)
    assert again.replies(asks(4)[::-1], **OPTIONS)[1:] == first[::-1]
    assert (inner.asked, again.asked, again.found) == (4, 1, 3)
    assert first[2][1].text == "question 2 1 5 é🙂"


@pytest.mark.parametrize("changed", [{"seed": 6}, {"samples": 1}, {"max_tokens": 3}, {"temperature": 0.5}])
def test_another_option_is_another_question(tmp_path, changed):
    inner = Scripted(echo)
    Cached(inner, tmp_path).replies(asks(1), **OPTIONS)
    got = Cached(inner, tmp_path).replies(asks(1), **(OPTIONS | changed))
    assert inner.asked == 2
    assert got == inner.replies(asks(1), **(OPTIONS | changed))


def test_another_model_is_another_question(tmp_path):
    Cached(Scripted(echo), tmp_path).replies(asks(1), **OPTIONS)
    other = Scripted(lambda ask, sample, seed: "other")
    assert Cached(other, tmp_path).replies(asks(1), **OPTIONS)[0][0].text == "other"


def test_equal_asks_are_asked_once_and_order_is_kept(tmp_path):
    inner = Scripted(echo)
    one, two = asks(2)
    got = Cached(inner, tmp_path).replies([one, two, one], **OPTIONS)
    assert inner.asked == 2
    assert [g[0].text[:10] for g in got] == ["question 0", "question 1", "question 0"]


def test_a_damaged_file_is_asked_again(tmp_path):
    inner = Scripted(echo)
    whole = Cached(inner, tmp_path).replies(asks(1), **OPTIONS)
    (file,) = tmp_path.rglob("*.json")
    for bad in (b"", b"[]", b"[1]", b'[{"text": "x"}]', b"\xff", file.read_bytes()[:-9]):
        file.write_bytes(bad)
        assert Cached(inner, tmp_path).replies(asks(1), **OPTIONS) == whole
    assert inner.asked == 7


def test_a_generator_that_dies_midway_has_lost_nothing_that_it_finished(tmp_path):
    class Dies(Scripted):
        def stream(self, asks, **options):
            for i, ask in enumerate(asks):
                if i == 2:
                    raise ConnectionError("gone")
                yield i, self.replies([ask], **options)[0]

    with pytest.raises(ConnectionError):
        Cached(Dies(echo), tmp_path).replies(asks(5), **OPTIONS)
    inner = Scripted(echo)
    assert Cached(inner, tmp_path).replies(asks(5), **OPTIONS) == Scripted(echo).replies(asks(5), **OPTIONS)
    assert inner.asked == 3


def test_the_test_generator_keeps_the_contract():
    inner = Scripted(echo)
    assert isinstance(inner, Generator)
    assert isinstance(inner, Judge)
    reply = reply_of("a b c", 2)
    assert (reply.text, reply.tokens, reply.finish) == ("a b", 2, "length")
    assert reply_of("a b c").tokens == 4
    assert Likelihood(-6.0, 3).loss == 2
