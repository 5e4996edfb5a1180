"""An OpenAI-compatible server on loopback that does what a test tells it to."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def answer(body: dict[str, Any], text: Callable[[int], str] | None = None) -> dict[str, Any]:
    """What OpenAI's protocol says, one choice per `n`."""
    said = body["messages"][-1]["content"]
    choices = [
        {
            "message": {"role": "assistant", "content": text(i) if text else f"{said}: {i} {body.get('seed')}"},
            "finish_reason": "stop",
        }
        for i in range(body.get("n") or 1)
    ]
    return {"choices": choices, "usage": {"completion_tokens": 4 * len(choices), "total_tokens": 4 * len(choices) + 6}}


class Fake:
    """`respond(number of the request, body)` gives (status, body, headers); counts what is under way."""

    def __init__(self, respond: Callable[[int, dict[str, Any]], tuple[int, Any, dict[str, str]]]) -> None:
        self.respond = respond
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.most = self.now = 0
        lock = threading.Lock()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    number = len(fake.bodies)
                    fake.bodies.append(body)
                    fake.keys.append(self.headers["Authorization"])
                    fake.now += 1
                    fake.most = max(fake.most, fake.now)
                try:
                    status, sent, headers = fake.respond(number, body)
                    raw = sent if isinstance(sent, bytes) else json.dumps(sent).encode()
                    self.send_response(status)
                    for name, value in {"Content-Length": str(len(raw)), **headers}.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(raw)
                except OSError:
                    pass  # the client has hung up
                finally:
                    with lock:
                        fake.now -= 1

            def log_message(self, *args):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()
