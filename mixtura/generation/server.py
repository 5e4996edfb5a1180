"""Any server that speaks OpenAI's chat protocol (vLLM, SGLang, llama.cpp, `transformers serve`, the vendors).

Requests go out side by side, each by itself repeated where it fails; what comes back is handed on at once, so that a
cache keeps it. Fields that a server does not know (`n`, `seed`, `logprobs`) are left out once it says so. Answers are
reproducible as far as the server's seeds are.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any

from mixtura.errors import GenerationError, MixturaError
from mixtura.generation.contract import Ask, Finish, Piece, Reply
from mixtura.generation.wire import Again, Declined, GivenUp, Line
from mixtura.recipe.model import digest

OPTIONAL = ("logprobs", "n", "seed", "response_format", "continue_final_message", "add_generation_prompt")
NAMED = r"""(?<!\\)['"`\s(,]{}['"`\s),=]"""  # how a server names the field that it does not take
FINISHES: dict[str, Finish] = {"stop": "stop", "tool_calls": "stop", "function_call": "stop", "length": "length"}
CHARS_PER_TOKEN = 3  # where tokens must be guessed; English has 4, so that the guess is on the safe side


@dataclass(frozen=True)
class Settings:
    """How a server is used, see `options.Spec`."""

    key_variable: str = "OPENAI_API_KEY"
    concurrency: int = 8
    timeout_seconds: float = 120.0
    retries: int = 4
    token_budget: int | None = None
    pause_seconds: float = 0.5


class Server:
    """A generator elsewhere.

    Args:
        url: base of the server, up to and with `/v1`.
        model: its name there.
        settings: how it is used.

    Raises:
        InputError: the URL is none.
    """

    def __init__(self, url: str, model: str, settings: Settings | None = None) -> None:
        self.model, self.settings = model, settings or Settings()
        s = self.settings
        self.line = Line(url, s.key_variable, s.timeout_seconds, s.retries, s.pause_seconds)
        self.budget = _Budget(s.token_budget)
        self._unknown: set[str] = set()  # fields that this server does not take

    @property
    def identity(self) -> dict[str, Any]:
        """Address and name; what runs behind them may change unseen."""
        return {"server": self.line.url, "model": self.model}

    def replies(
        self, asks: Sequence[Ask], *, samples: int, max_tokens: int, temperature: float, seed: int
    ) -> list[list[Reply]]:
        """As `Generator.replies`."""
        made = dict(self.stream(asks, samples=samples, max_tokens=max_tokens, temperature=temperature, seed=seed))
        return [made[i] for i in range(len(asks))]

    def stream(
        self, asks: Sequence[Ask], *, samples: int, max_tokens: int, temperature: float, seed: int
    ) -> Iterator[tuple[int, list[Reply]]]:
        """As `Streams.stream`, in the order in which the server answers.

        Raises:
            InputError: the server refuses to be asked at all.
            GenerationError: it stopped answering, or the budget is spent; what had come before was handed on.
        """
        self.line.given_up.clear()
        problem: BaseException | None = None
        with ThreadPoolExecutor(self.settings.concurrency, "mixtura-ask") as pool:
            under_way = {
                pool.submit(self._of_ask, a, samples, max_tokens, temperature, seed): i for i, a in enumerate(asks)
            }
            try:
                for done in as_completed(under_way):
                    problem = done.exception()
                    if problem is not None:
                        break
                    yield under_way.pop(done), done.result()
            finally:  # also where whoever takes the replies stops taking
                self.line.given_up.set()
                pool.shutdown(cancel_futures=True)
        if problem is not None:
            for late, i in under_way.items():
                if late.cancelled():
                    continue
                if late.exception() is None:  # answered while another failed: paid for as well
                    yield i, late.result()
                elif isinstance(problem, GivenUp):
                    problem = late.exception() or problem  # the one for which the others gave up
            raise problem

    def _of_ask(self, ask: Ask, samples: int, max_tokens: int, temperature: float, seed: int) -> list[Reply]:
        got: list[Reply] = []
        try:
            while len(got) < samples:  # a server that does not know `n` gives one at a time
                wanted = samples - len(got)
                body = self._body(ask, wanted, max_tokens, temperature, _seed(seed, ask, len(got)))
                got += self._choices(body, wanted, max_tokens)
        except Declined as e:
            return [Reply("", 0, None, "refused", reason=str(e))] * samples
        except MixturaError:
            self.line.given_up.set()  # nothing else is sent
            raise
        return got[:samples]

    def _body(self, ask: Ask, n: int, max_tokens: int, temperature: float, seed: int) -> dict[str, Any]:
        messages = [_on_the_wire(m) for m in ask.messages]
        begun: dict[str, Any] = {}
        if ask.begun:
            messages.append({"role": "assistant", "content": ask.begun})
            begun = {"continue_final_message": True, "add_generation_prompt": False}
        return {
            "model": self.model, "messages": messages, "max_tokens": max_tokens, "temperature": temperature,
            "seed": seed, "n": n, "logprobs": True, **begun,
            **({"tools": ask.tools} if ask.tools else {}), **_form(ask),
        }  # fmt: skip

    def _choices(self, body: dict[str, Any], n: int, max_tokens: int) -> list[Reply]:
        """One request; a field that the server does not take is left out from then on."""
        read = len(json.dumps([body["messages"], body.get("tools")])) // CHARS_PER_TOKEN
        guess = read + n * max_tokens
        for _ in range(len(OPTIONAL) + 1):
            sent = {k: v for k, v in body.items() if k not in self._unknown}
            with self.budget.reserved(guess) as spent:
                try:
                    replies, billed = self.line.post("/chat/completions", sent, _understood)
                except Declined as e:
                    named = {f for f in OPTIONAL if f in sent and re.search(NAMED.format(f), str(e))}
                    if not named or "continue_final_message" in named:
                        raise  # an answer that cannot be continued is another answer
                    self._unknown |= named
                    continue
                spent.append(billed if billed is not None else read + sum(r.tokens for r in replies))
                return replies
        raise GenerationError(f"server {self.line.url!r} takes none of the fields {OPTIONAL}")


class _Budget:
    """Tokens that may be spent; a request's worst case is set aside before it goes out."""

    def __init__(self, most: int | None) -> None:
        self.most, self.spent, self._aside, self._lock = most, 0, 0, threading.Lock()

    def reserved(self, guess: int) -> _Reserved:
        return _Reserved(self, guess)

    def change(self, aside: int, spent: int = 0) -> None:
        with self._lock:
            if aside > 0 and self.most is not None and self.spent + self._aside + aside > self.most:
                step = "Raise token_budget and run again: what was answered is kept"
                raise GenerationError(f"the budget of {self.most} tokens is spent ({self.spent} used). {step}.")
            self._aside += aside
            self.spent += spent


class _Reserved:
    """Tokens set aside for one request; what it really cost is appended to the list that it hands out."""

    def __init__(self, budget: _Budget, guess: int) -> None:
        self.budget, self.guess, self.cost = budget, guess, list[int]()

    def __enter__(self) -> list[int]:
        self.budget.change(self.guess)
        return self.cost

    def __exit__(self, *_: object) -> None:
        self.budget.change(-self.guess, sum(self.cost))


def _understood(answer: dict[str, Any]) -> tuple[list[Reply], int | None]:
    """Replies of an answer, and the tokens that it bills where it says so.

    Raises:
        Again: it is none of the protocol's.
    """
    usage = answer.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    written, billed = (_whole(usage.get(k)) for k in ("completion_tokens", "total_tokens"))
    choices = answer.get("choices")
    if not isinstance(choices, list) or not choices:
        raise Again(f"no choices but {json.dumps(answer)[:200]}")
    return [_reply(c, written // len(choices) if written is not None else None) for c in choices], billed


def _reply(choice: Any, tokens: int | None) -> Reply:
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(message, dict):
        raise Again(f"a choice without a message: {json.dumps(choice)[:200]}")
    text, calls = message.get("content") or "", message.get("tool_calls") or None
    if not isinstance(text, str) or not (calls is None or isinstance(calls, list)):
        raise Again(f"a message that is no text: {json.dumps(message)[:200]}")
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")  # half a character is none
    tokens = tokens if tokens is not None else len(text) // CHARS_PER_TOKEN + 1
    if refusal := _refusal(choice, message):
        return Reply("", tokens, None, "refused", reason=refusal)
    pieces = _pieces(choice)
    if "".join(p.text for p in pieces) != text:
        pieces = ()  # the end token is among them, or the server took calls out of the text
    told = choice.get("logprobs")
    return Reply(
        text,
        tokens,
        sum(p.log_probability for p in _pieces(choice)) if told else None,
        FINISHES.get(choice.get("finish_reason") or "stop", "stop"),
        pieces,
        json.dumps(calls, ensure_ascii=False, sort_keys=True) if calls else None,
    )


def _refusal(choice: dict[str, Any], message: dict[str, Any]) -> str:
    """Why the model or its server's filter said no, as the protocol tells it; '' where neither did."""
    if choice.get("finish_reason") == "content_filter":
        return "the server's filter took the answer out"
    said = message.get("refusal")
    return f"the model refuses: {said[:200]}" if isinstance(said, str) and said.strip() else ""


def _pieces(choice: dict[str, Any]) -> tuple[Piece, ...]:
    """Tokens with log p; () where the server does not say."""
    told = choice.get("logprobs")
    content = told.get("content") if isinstance(told, dict) else None
    if not isinstance(content, list):
        return ()
    try:
        return tuple(Piece(str(t["token"]), float(t["logprob"])) for t in content)
    except (TypeError, KeyError, ValueError):
        return ()


def _form(ask: Ask) -> dict[str, Any]:
    """The schema that a server is to hold the answer to."""
    if ask.form is None:
        return {}
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": ask.form}}}


def _on_the_wire(message: dict[str, Any]) -> dict[str, Any]:
    """A turn as the protocol has it: arguments as a JSON string, each call with an id."""
    if "tool_calls" not in message:
        return message
    calls = []
    for at, call in enumerate(message["tool_calls"]):
        function = dict(call.get("function") or {})
        if not isinstance(function.get("arguments"), str):
            function["arguments"] = json.dumps(function.get("arguments") or {}, ensure_ascii=False)
        calls.append({"id": call.get("id") or f"call_{at}", "type": "function", "function": function})
    return {"content": None} | message | {"tool_calls": calls}


def _seed(seed: int, ask: Ask, at: int) -> int:
    """Seed of one request, 31 bits: equal asks with equal numbers get equal ones."""
    return int(digest([seed, ask.digest, at])[:8], 16) >> 1


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
