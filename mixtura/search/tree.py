"""Monte Carlo tree search over one answer: a node is what has been written, an edge is a step of the model's own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from mixtura.generation.contract import Reply
from mixtura.search.steps import Cut, Step, first_step

LEAST = 0.02  # of the policy's probability; where less is left unseen, a node is not sampled again


@dataclass
class Node:
    """The beginning of an answer.

    text: what has been written; log_probability: of it, in nats, None where a server does not say.
    chance: probability of its last step after the ones before, by the policy; None where a server does not say.
    visits, total: rollouts through it, and the sum of their values.
    drawn, drawn_total: those of them that were drawn at this very node; expansions: how often it was.
    closed: nothing beneath it is left to try.
    """

    text: str = ""
    log_probability: float | None = 0.0
    chance: float | None = 1.0
    visits: int = 0
    total: float = 0.0
    drawn: int = 0
    drawn_total: float = 0.0
    expansions: int = 0
    closed: bool = False
    children: dict[str, Node] = field(default_factory=dict)

    @property
    def value(self) -> float:
        """Mean of its rollouts, in [0, 1]."""
        return self.total / self.visits if self.visits else 0.0

    @property
    def priors(self) -> tuple[list[float], float]:
        """What the policy thinks of each child, and of all steps not seen yet; alike where it does not say."""
        chances = [c.chance for c in self.children.values()]
        if any(c is None for c in chances):
            share = 1 / (len(chances) + 1 + self.drawn)
            return [(1 - share) / len(chances)] * len(chances), share
        known = [c for c in chances if c is not None]
        return known, max(0.0, 1 - sum(known))


class Tree:
    """The search of one answer.

    Args:
        depth: steps at most.
        exploration: 0 follows the best value so far; higher values try more of what the policy likes.
        step: what a step is.
    """

    def __init__(self, *, depth: int, exploration: float, step: Step) -> None:
        self.depth, self.exploration = depth, exploration
        self.step: Step = step
        self.root = Node()

    def select(self) -> list[Node] | None:
        """The path from the root to the node that is to be expanded next; None where all is tried.

        At each node the children compete with drawing new steps there, whose prior is the probability that the policy
        gives to everything not seen yet, and whose value is the mean of what was drawn: so a right step that the first
        draws missed is not lost, and a node is widened while it pays.

        Source: PUCT, Silver et al. 2017 (AlphaGo Zero), methods, "select"; iTool has a logarithm under the root, and
        never widens a node. The arm for unseen steps is ours.
        """
        if self.root.closed:
            return None
        path = [self.root]
        while path[-1].children:
            node = path[-1]
            priors, unseen = node.priors
            arms = [
                (puct(c.value, p, node.visits, c.visits, self.exploration), c)
                for c, p in zip(node.children.values(), priors, strict=True)
                if not c.closed
            ]
            best = max(arms, key=lambda a: a[0], default=None)
            again = node.drawn - node.drawn // node.expansions  # what was drawn first counts as its children's visits
            anew = puct(node.drawn_total / node.drawn, unseen, node.visits, again, self.exploration)
            if best is None or (unseen > LEAST and anew > best[0]):
                return path
            path.append(best[1])
        return path

    def expand(self, path: Sequence[Node], replies: Sequence[Reply], values: Sequence[float]) -> None:
        """Give a node children out of rollouts drawn there, equal first steps joined, and back their values up.

        Args:
            path: from `select`.
            replies: continuations of its last node, each a whole answer with it.
            values: of these answers, in [0, 1].
        """
        leaf = path[-1]
        for reply, value in zip(replies, values, strict=True):
            cut = first_step(reply, self.step)
            if cut.text not in leaf.children:
                leaf.children[cut.text] = _child(leaf, cut, ended=cut.whole or len(path) >= self.depth)
            child = leaf.children[cut.text]
            child.visits, child.total = child.visits + 1, child.total + value
        leaf.expansions += 1
        leaf.drawn, leaf.drawn_total = leaf.drawn + len(values), leaf.drawn_total + sum(values)
        for node in path:
            node.visits += len(values)
            node.total += sum(values)
        for node in reversed(path):
            node.closed = all(c.closed for c in node.children.values()) and node.priors[1] <= LEAST


def puct(value: float, prior: float, tries: int, visits: int, exploration: float) -> float:
    """Value so far plus what the policy likes and has been tried little.

    Args:
        value: mean of an arm's rollouts.
        prior: probability of the arm by the policy.
        tries: rollouts through the node.
        visits: rollouts through the arm.
        exploration: weight of the second part.
    """
    return value + exploration * prior * math.sqrt(tries) / (1 + visits)


def _child(leaf: Node, cut: Cut, *, ended: bool) -> Node:
    known = leaf.log_probability is not None and cut.log_probability is not None
    nats = leaf.log_probability + cut.log_probability if known else None  # type: ignore[operator]
    chance = math.exp(cut.log_probability) if cut.log_probability is not None else None
    return Node(leaf.text + cut.text, nats, chance, closed=ended)
