"""Of a dialogue whose calls a builder marked, the calls alone are learned."""

from __future__ import annotations

from mixtura.trainer.mixture import Row


def test_only_marked_turns_are_trained_on(chat):
    messages = [
        {"role": "user", "content": "alpha"},
        {"role": "assistant", "content": "beta"},
        {"role": "user", "content": "gamma"},
        {"role": "assistant", "content": "delta"},
    ]

    def learned(marked: tuple[int, ...]) -> str:
        (turns,) = chat.encode(Row(messages=messages, loss_turns=marked), answers_only=True)
        return "".join(turns.text[a:b] for a, b in turns.spans[turns.trained])

    assert ("beta" in learned((1,)), "delta" in learned((1,))) == (True, False)
    assert ("beta" in learned((3,)), "delta" in learned((3,))) == (False, True)
    assert ("beta" in learned(()), "delta" in learned(())) == (True, True)
