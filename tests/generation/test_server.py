"""Servers on loopback: one that does what a test tells it to, and transformers' own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from typing import Any

import pytest
from fake_server import Fake, answer
from families import folder

from mixtura.errors import GenerationError, InputError
from mixtura.generation.cached import Cached
from mixtura.generation.contract import Ask, Generator
from mixtura.generation.server import Server, Settings

KEY = "sk-very-secret"
OPTIONS = {"samples": 3, "max_tokens": 20, "temperature": 1.0, "seed": 1}


def asks(n: int) -> list[Ask]:
    return [Ask([{"role": "user", "content": f"question {i}"}]) for i in range(n)]


@pytest.fixture
def fake(monkeypatch):
    """Make a server; it is gone with the test."""
    made: list[Fake] = []
    monkeypatch.setenv("MIXTURA_TEST_KEY", KEY)

    def make(respond):
        made.append(Fake(respond))
        return made[-1]

    yield make
    for server in made:
        server.close()


def client(server: Fake, **settings) -> Server:
    given = {"key_variable": "MIXTURA_TEST_KEY", "timeout_seconds": 5.0, "retries": 2, "pause_seconds": 0.01}
    return Server(server.url, "some-model", Settings(**(given | settings)))


def good(number: int, body: dict[str, Any]):
    return 200, answer(body), {}


def test_replies_come_in_order_and_the_same_again(fake):
    server = fake(good)
    model = client(server)
    assert isinstance(model, Generator)
    got = model.replies(asks(7), **OPTIONS)
    assert [[r.text.split(": ")[0] for r in rs] for rs in got] == [[f"question {i}"] * 3 for i in range(7)]
    assert all(r.tokens == 4 and r.finish == "stop" and r.log_probability is None for rs in got for r in rs)
    assert client(server).replies(asks(7), **OPTIONS) == got
    assert client(server).replies(asks(7), **(OPTIONS | {"seed": 2})) != got
    assert server.bodies[0]["model"] == "some-model"
    assert set(server.keys) == {f"Bearer {KEY}"}
    assert KEY not in json.dumps(model.identity)


def test_a_server_that_does_not_know_n_is_asked_one_by_one(fake):
    server = fake(lambda number, body: good(number, body | {"n": 1}))
    got = client(server).replies(asks(2), **OPTIONS)
    assert len({r.text for rs in got for r in rs}) == 6, "each has a seed of its own"
    assert len(server.bodies) == 6


def test_fields_that_a_server_refuses_are_left_out_from_then_on(fake):
    def strict(number, body):
        odd = {"logprobs", "n"} & set(body)
        return (422, {"detail": f"Unexpected fields in the request: {odd}"}, {}) if odd else good(number, body)

    server = fake(strict)
    got = client(server, concurrency=1).replies(asks(2), **OPTIONS)
    assert all(r.finish == "stop" for rs in got for r in rs)
    assert [sorted({"logprobs", "n"} & set(b)) for b in server.bodies] == [["logprobs", "n"]] + [[]] * 6


def test_log_probabilities_and_tools_are_read(fake):
    tokens = [("up", -0.5), ("(", -0.25)]
    told = {"content": [{"token": t, "logprob": p} for t, p in tokens]}
    calls = [{"id": "a", "type": "function", "function": {"name": "up", "arguments": "{}"}}]
    said = [
        {"message": {"content": "up("}, "logprobs": told, "finish_reason": "length"},
        {"message": {"content": None, "tool_calls": calls}, "finish_reason": "tool_calls"},
    ]
    server = fake(lambda number, body: (200, {"choices": said}, {}))
    ask = Ask.of(
        [{"role": "user", "content": "go"}, {"role": "assistant", "content": None, "tool_calls": json.dumps(calls)}],
        [{"type": "function", "function": {"name": "up"}}],
    )
    first, second = client(server).replies([ask], **(OPTIONS | {"samples": 2}))[0]
    assert (first.text, first.log_probability, first.finish, len(first.pieces)) == ("up(", -0.75, "length", 2)
    assert (second.text, second.finish, json.loads(second.calls)) == ("", "stop", calls)
    (body,) = server.bodies
    assert body["tools"] == ask.tools
    assert body["messages"][1]["tool_calls"][0]["function"]["arguments"] == "{}", "a string on the wire"
    assert body["logprobs"] is True


def test_a_begun_answer_is_continued(fake):
    server = fake(good)
    client(server).replies([Ask([{"role": "user", "content": "go"}], begun="up(")], **OPTIONS)
    body = server.bodies[0]
    assert body["messages"][-1] == {"role": "assistant", "content": "up("}
    assert (body["continue_final_message"], body["add_generation_prompt"]) == (True, False)


@pytest.mark.parametrize(
    "bad",
    [
        (503, {"error": "busy"}, {}),
        (429, {"error": "slow down"}, {"Retry-After": "0.01"}),
        (200, b"<html>proxy</html>", {}),
        (200, b"[1]", {}),
        (200, {"choices": []}, {}),
        (200, {"choices": [{"message": None}]}, {}),
        (200, {"choices": [{"message": {"content": 5}}]}, {}),
        (200, b'{"choices": [{"mess', {}),
        (200, b"{" * 100_000, {}),
        (200, b'{"a": 1}', {"Content-Length": "100"}),
    ],
    ids=["503", "429", "html", "list", "no choice", "no message", "no text", "torn", "deep", "short"],
)
def test_a_bad_answer_is_asked_for_again(fake, bad):
    server = fake(lambda number, body: bad if number == 0 else good(number, body))
    (got,) = client(server).replies(asks(1), **OPTIONS)
    assert [r.text.split(": ")[0] for r in got] == ["question 0"] * 3
    assert len(server.bodies) == 2


def test_a_server_that_is_never_well_is_a_clear_error(fake):
    server = fake(lambda number, body: (500, {"error": f"trouble with {KEY}"}, {}))
    with pytest.raises(GenerationError) as e:
        client(server).replies(asks(1), **OPTIONS)
    assert "gave no answer in 3 tries; status 500" in str(e.value)
    assert "what it answered before is kept" in str(e.value)
    assert KEY not in str(e.value)
    assert len(server.bodies) == 3


@pytest.mark.parametrize("drips", [False, True])
def test_a_server_that_hangs_is_given_up(fake, drips):
    done = threading.Event()

    def hang(number, body):
        done.wait(3)
        return good(number, body)

    server = fake(hang)
    if drips:  # headers at once, then a byte now and then
        port = _dripping(done)
        server.url = f"http://127.0.0.1:{port}/v1"
    began = time.monotonic()
    with pytest.raises(GenerationError, match="gave no answer in 1 tries"):
        client(server, timeout_seconds=0.3, retries=0).replies(asks(1), **OPTIONS)
    assert time.monotonic() - began < 2.5
    done.set()


def _dripping(done: threading.Event) -> int:
    listening = socket.create_server(("127.0.0.1", 0))

    def serve():
        connection, _ = listening.accept()
        with connection, listening:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
            while not done.wait(0.05):
                try:
                    connection.sendall(b" ")
                except OSError:
                    return

    threading.Thread(target=serve, daemon=True).start()
    return listening.getsockname()[1]


def test_nobody_listens():
    with socket.create_server(("127.0.0.1", 0)) as s:
        port = s.getsockname()[1]
    model = Server(f"http://127.0.0.1:{port}/v1", "m", Settings(retries=1, pause_seconds=0.01))
    with pytest.raises(GenerationError, match=r"in 2 tries; ConnectionRefusedError"):
        model.replies(asks(1), **OPTIONS)


def test_a_wrong_key_is_said_at_once_and_not_repeated(fake):
    server = fake(lambda number, body: (401, {"error": f"Incorrect API key provided: {KEY}"}, {}))
    with pytest.raises(InputError, match=r"status 401; .*\[key\].*read from \$MIXTURA_TEST_KEY") as e:
        client(server, concurrency=1).replies(asks(5), **OPTIONS)
    assert KEY not in str(e.value)
    assert len(server.bodies) == 1


def test_a_key_is_not_carried_to_another_address(fake):
    other = fake(good)
    server = fake(lambda number, body: (307, {}, {"Location": f"{other.url}/chat/completions"}))
    with pytest.raises(InputError, match="status 307"):
        client(server).replies(asks(1), **OPTIONS)
    assert other.bodies == []


def test_one_ask_that_is_declined_costs_its_own_row(fake):
    def declines(number, body):
        long = body["messages"][-1]["content"].endswith("2")
        return (400, {"error": "maximum context length exceeded"}, {}) if long else good(number, body)

    got = client(fake(declines)).replies(asks(4), **OPTIONS)
    assert [rs[0].finish for rs in got] == ["stop", "stop", "refused", "stop"]
    assert "maximum context length" in got[2][0].reason


def test_no_more_requests_are_under_way_than_allowed(fake):
    def slow(number, body):
        time.sleep(0.05)
        return good(number, body)

    server = fake(slow)
    client(server, concurrency=3).replies(asks(12), **OPTIONS)
    assert server.most == 3


def test_the_budget_holds_and_what_was_answered_is_kept(fake, tmp_path):
    """18 tokens a request, and 3 * 20 set aside: the budget of 100 takes two, and stops before the fourth."""
    server = fake(good)
    model = client(server, concurrency=1, token_budget=100)
    with pytest.raises(GenerationError, match=r"the budget of 100 tokens is spent \(\d+ used\)"):
        Cached(model, tmp_path).replies(asks(9), **OPTIONS)
    assert model.budget.spent <= 100
    paid = len(server.bodies)
    assert 1 <= paid <= 5
    whole = Cached(client(server), tmp_path).replies(asks(9), **OPTIONS)
    assert len(server.bodies) == 9, "what was paid for is not asked again"
    assert [r[0].text.split(": ")[0] for r in whole] == [f"question {i}" for i in range(9)]


def test_a_server_that_dies_midway_costs_only_time(fake, tmp_path):
    server = fake(lambda number, body: good(number, body) if number < 4 else (500, {}, {}))
    with pytest.raises(GenerationError):
        Cached(client(server, concurrency=1, retries=1), tmp_path).replies(asks(8), **OPTIONS)
    back = fake(good)
    resumed = Cached(_named(client(back), server.url), tmp_path).replies(asks(8), **OPTIONS)
    assert len(back.bodies) == 4
    assert resumed == client(fake(good)).replies(asks(8), **OPTIONS)


def _named(model: Server, url: str) -> Server:
    """The same server, back at the address that it had."""

    class Back(Server):
        @property
        def identity(self):
            return {"server": url, "model": self.model}

    model.__class__ = Back
    return model


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("localhost:8000", "must be a URL such as"),
        ("file:///etc/passwd", "must be a URL such as"),
        ("http://user:pass@host/v1", "without a password or a query"),
        ("https://host/v1?key=abc", "without a password or a query"),
    ],
)
def test_an_address_that_is_none(url, said):
    with pytest.raises(InputError, match=said) as e:
        Server(url, "m")
    assert "pass@" not in str(e.value)
    assert "abc" not in str(e.value)


@pytest.mark.slow
def test_a_real_server_gives_replies(tmp_path):
    """`transformers serve` over a small random model: it ignores `n`, and refuses what it does not know."""
    pytest.importorskip("openai", reason="transformers' server needs its types: pip install openai")
    with socket.create_server(("127.0.0.1", 0)) as s:
        port = s.getsockname()[1]
    log = (tmp_path / "log").open("w")
    serve = "transformers.cli.transformers serve --host 127.0.0.1 --device cpu --port"
    command = [sys.executable, "-m", *serve.split(), str(port)]
    process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    try:
        _wait(f"http://127.0.0.1:{port}/health", process)
        model = Server(f"http://127.0.0.1:{port}/v1", folder("llama"), Settings(concurrency=1, timeout_seconds=60))
        got = model.replies(asks(2), samples=2, max_tokens=40, temperature=1.0, seed=1)
        assert all(r.finish in ("stop", "length") and r.tokens <= 41 for rs in got for r in rs), got
        assert any(r.text for rs in got for r in rs), got
    finally:
        process.terminate()
        process.wait(20)
        log.close()


def _wait(url: str, process: subprocess.Popen) -> None:
    for _ in range(400):
        assert process.poll() is None, "the server did not start"
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            time.sleep(0.5)
    raise AssertionError("the server did not come up")
