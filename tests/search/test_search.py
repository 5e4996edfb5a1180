"""Search: the formulae by hand, a lock whose right answer is rare, and what a pair must be."""

from __future__ import annotations

import json
import math
from itertools import pairwise

import numpy as np
import pytest
from scripted import Scripted, reply_of

from mixtura.checking import Question
from mixtura.checks.tool_calls import CHECK
from mixtura.generation.contract import Ask, Likelihood, Piece, Reply
from mixtura.search.explore import Search, explore, grade
from mixtura.search.pairs import counted, pairs
from mixtura.search.steps import Cut, first_step
from mixtura.search.tree import Node, Tree, puct
from mixtura.verdict import Failure, Verdict, failed

NAMES, VALUES = ("alpha", "beta", "gamma", "delta"), (1, 2, 3, 4)
TOOLS = json.dumps([
    {"name": n, "parameters": {"type": "object", "required": ["x"], "properties": {"x": {"type": "integer"}}}}
    for n in NAMES
])  # fmt: skip


def question(name: str = "gamma", x: int = 3, asked: str = "open") -> Question:
    gold = json.dumps({"name": name, "arguments": {"x": x}})
    turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": gold}]
    return CHECK.question(CHECK.Spec(), {"messages": turns, "tools": TOOLS, "meta": None})


def lock(ask: Ask, sample: int, seed: int) -> str:
    """One of 16 calls, all alike likely; goes on from what has begun, a word per choice."""
    rng = np.random.default_rng([int(ask.digest[:8], 16), sample, seed])
    name, value = rng.choice(NAMES), rng.choice(VALUES)
    if ask.begun.endswith(")"):
        return ""
    return f"{value})" if ask.begun.endswith("=") else f"x={value})" if ask.begun else f"{name}(x={value})"


class Lock(Scripted):
    """Tokens as a model would have them: name, bracket, `x`, `=`, value, ` )`."""

    def replies(self, asks, *, samples, max_tokens, temperature, seed):
        self.asked += len(asks)
        return [[self._reply(lock(a, i, seed)) for i in range(samples)] for a in asks]

    @staticmethod
    def _reply(text: str) -> Reply:
        words = text.replace("(", " (").replace("x=", " x= ").replace(")", " )").split()
        pieces = tuple(Piece(w, math.log(1 / 4) if w in NAMES or w.isdigit() else 0.0) for w in words)
        return Reply("".join(words), len(words) + 1, sum(p.log_probability for p in pieces), "stop", pieces)


def test_puct_by_hand():
    """Value 0.6, prior 0.5, 16 rollouts of the node, 5 of the arm, c 1: 0.6 + 0.5 * 4 / 6."""
    assert puct(0.6, 0.5, 16, 5, 1.0) == pytest.approx(0.6 + 0.5 * 4 / 6)
    assert puct(0.6, 0.5, 16, 5, 0.0) == 0.6
    assert puct(0.0, 0.25, 4, 0, 2.0) == pytest.approx(2 * 0.25 * 2)


def test_a_prior_is_what_the_policy_thinks_and_the_rest_is_unseen():
    node = Node(children={"a": Node(chance=0.3), "b": Node(chance=0.1)}, drawn=4)
    assert node.priors == ([0.3, 0.1], pytest.approx(0.6))
    node.children["c"] = Node(chance=None)
    priors, unseen = node.priors
    assert priors == [priors[0]] * 3
    assert sum(priors) + unseen == pytest.approx(1)


@pytest.mark.parametrize(
    ("step", "words", "first"),
    [
        ("argument", ["book", "(", "city", "=", "Rome", ",", " n", "=", "2", ")"], "book("),
        ("argument", ["Ro", "me", ", ", "x", ")"], "Rome, x)"),  # the comma's token ends in a blank
        ("call", ["f", "(", "1", ")", ";", "g", "()"], "f(1)"),
        ("call", ["f", "(", "1", ")"], "f(1)"),
        ("sentence", ["It", " is", ".", " So", " be", " it", "."], "It is."),
        ("sentence", ["3", ".5", " is", " it"], "3.5 is it"),
    ],
)
def test_where_steps_end(step, words, first):
    reply = Reply("".join(words), 0, -1.0 * len(words), "stop", tuple(Piece(w, -1.0) for w in words))
    cut = first_step(reply, step)
    assert cut.text == first
    assert cut.whole == (first == reply.text)
    assert cut.log_probability == -1.0 * sum(1 for i in range(len(words)) if len("".join(words[: i + 1])) <= len(first))


def test_a_reply_without_tokens_is_one_step():
    assert first_step(Reply("a, b", 3, None, "stop"), "argument") == Cut("a, b", None, True)


def test_values_are_backed_up_and_what_is_tried_is_closed():
    """Two rollouts begin alike, one differs; by hand: root 3 visits and 1.5, the joined child 2 and 1.0."""
    tree = Tree(depth=3, exploration=1.0, step="argument")
    pieces = [Piece("f(", math.log(0.99)), Piece("1", 0.0), Piece(")", 0.0)]
    a, b = (Reply("f(1)", 4, math.log(0.99), "stop", tuple(pieces)) for _ in range(2))
    c = Reply("no", 2, -6.0, "stop", (Piece("no", -6.0),))
    path = tree.select()
    assert path == [tree.root]
    tree.expand(path, [a, b, c], [1.0, 0.0, 0.5])
    joined, alone = tree.root.children.values()
    assert (tree.root.visits, tree.root.total) == (3, 1.5)
    assert (joined.text, joined.visits, joined.total, joined.closed) == ("f(", 2, 1.0, False)
    assert (alone.text, alone.closed, alone.chance) == ("no", True, pytest.approx(math.exp(-6)))
    path = tree.select()
    assert path == [tree.root, joined]
    tree.expand(path, [Reply("1)", 2, -0.005, "stop", (Piece("1", -0.005), Piece(")", 0.0)))], [1.0])
    assert (tree.root.visits, tree.root.total, joined.value) == (4, 2.5, pytest.approx(2 / 3))
    assert tree.select() is None


def test_a_node_is_drawn_from_again_while_much_is_unseen():
    """What was drawn first has probability 0.1 and value 0: nine tenths are open, and beat going on with it."""
    tree = Tree(depth=3, exploration=1.0, step="argument")
    a = Reply("f(1)", 4, math.log(0.1), "stop", (Piece("f(", math.log(0.1)), Piece("1)", 0.0)))
    tree.expand([tree.root], [a], [0.0])
    assert tree.select() == [tree.root]
    tree.expand([tree.root], [a], [0.0])
    assert tree.root.children["f("].visits == 2


def test_a_tree_finds_a_rare_answer_more_often_than_sampling_as_many():
    """1 of 16 calls is right. Sampling 24 finds it in 1 - (15/16)^24 = 79 % of questions; the tree learns from the
    rewards which name is right, and then needs one value in four."""
    asked = [question(asked=f"open {i}") for i in range(180)]
    tree = Search(simulations=6, width=4, depth=3, exploration=0.5, enough=30)
    found = explore(Lock(lock), asked, tree, seed=1)
    drawn = explore(Lock(lock), asked, Search(by="samples", samples=24), seed=1)
    assert max(f.rollouts for f in found) == max(f.rollouts for f in drawn) == 24
    hits = [sum(any(a.right for a in f.answers) for f in x) for x in (found, drawn)]
    assert hits[1] == pytest.approx(180 * (1 - (15 / 16) ** 24), abs=4 * math.sqrt(180 * 0.79 * 0.21))
    assert hits[0] > hits[1] + 10


def test_company_and_order_change_nothing():
    asked = [question(asked=f"open {i}") for i in range(6)]
    whole = explore(Lock(lock), asked, Search(), seed=4)
    assert explore(Lock(lock), asked[::-1], Search(), seed=4)[::-1] == whole
    assert explore(Lock(lock), asked[2:3], Search(), seed=4) == whole[2:3]
    assert explore(Lock(lock), asked, Search(), seed=5) != whole


def test_the_probability_of_an_answer_is_that_of_all_its_tokens():
    for found in explore(Lock(lock), [question()], Search(exploration=3.0), seed=2):
        for answer in found.answers:
            assert answer.attempt.reply.log_probability == pytest.approx(2 * math.log(1 / 4))


@pytest.mark.parametrize("by", ["tree", "best_of", "samples"])
def test_pairs_are_whole_and_what_they_say(by):
    spec = Search(by=by, samples=24, simulations=6)
    gold = Likelihood(-7.0, 5)
    made = []
    for found in explore(Lock(lock), [question(asked=f"open {i}") for i in range(12)], spec, seed=1):
        of_row = pairs(found, spec, gold)
        assert 1 <= len(of_row) <= (spec.enough if by == "tree" else 1)
        for pair in of_row:
            made.append(pair)
            record = pair.record
            judge = found.question.judge
            assert judge(record["chosen"][0]).passed
            assert not judge(record["rejected"][0]).passed
            assert judge(record["rejected"][0]).kind == record["about"]["error"]
            assert record["about"]["on_policy"] == (record["chosen"][0] != found.question.gold)
            assert 0 < record["about"]["margin"] <= 3
            assert record["about"]["chosen_log_p"] in (-7.0, pytest.approx(2 * math.log(1 / 4)))
            assert [t["role"] for t in record["prompt"]] == ["user"]
            json.dumps(record)
        texts = [p.rejected.attempt.reply.text for p in of_row]
        assert len(set(texts)) == len(texts)
        rewards = [p.rejected.reward for p in of_row]
        assert all(a >= b for a, b in pairwise(rewards))
        if by != "samples":  # the nearest miss that was found
            assert rewards[0] == max(a.reward for a in found.answers if not a.right)
    said = counted(made)
    assert said["pairs"] == len(made) == sum(said["errors"].values())


def test_what_was_cut_off_is_in_no_pair():
    cut = Scripted(lambda ask, sample, seed: "gamma( x=3 )" if sample else "gamma( x=4 )")
    spec = Search(by="best_of", samples=4, max_tokens=2)
    (found,) = explore(cut, [question()], spec, seed=0)
    assert {a.attempt.reply.finish for a in found.answers} == {"length"}
    assert pairs(found, spec) == []
    whole = Search(by="best_of", samples=4)
    (found,) = explore(cut, [question()], whole, seed=0)
    (pair,) = pairs(found, whole)
    assert (pair.chosen.attempt.reply.text, pair.rejected.attempt.reply.text) == ("gamma( x=3 )", "gamma( x=4 )")
    assert pair.about["shared"] == len("gamma( x=")
    assert pair.margin == 1.25
    assert found.answers[1].times == 3


def test_without_a_right_answer_the_gold_stands_in():
    never = Scripted(lambda ask, sample, seed: "gamma( x=4 )")
    spec = Search(by="samples", samples=2)
    (pair,) = pairs(explore(never, [question()], spec, seed=0)[0], spec, Likelihood(-3.0, 4))
    assert pair.chosen is None
    assert pair.record["chosen"][0]["content"] == '{"name": "gamma", "arguments": {"x": 3}}'
    assert (pair.about["on_policy"], pair.about["chosen_log_p"]) == (False, -3.0)


def test_a_mastered_question_gives_no_pair():
    always = Scripted(lambda ask, sample, seed: "gamma( x=3 )"[len(ask.begun) :])
    (found,) = explore(always, [question()], Search(simulations=3), seed=0)
    assert pairs(found, Search()) == []
    assert len(found.answers) == 1


def test_other_checks_are_graded_right_wrong_or_unreadable():
    plain = Question(({"role": "user", "content": "?"},), {"content": "4"}, lambda _: Verdict())
    graded = grade(plain)
    assert [graded(v) for v in (Verdict(), failed("wrong_answer"), failed("no_answer"))] == [1.0, 0.0, -2.0]
    assert grade(question())(Verdict((Failure("wrong_tool", tool="alpha", call=0),))) == -1.5


def test_the_tree_rests_once_it_has_its_pairs():
    model = Lock(lock)
    explore(model, [question()], Search(simulations=200, width=16, enough=1), seed=0)
    assert model.asked <= 3
    assert reply_of("a b").finish == "stop"
