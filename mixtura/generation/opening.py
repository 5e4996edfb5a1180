"""Open the generator that a selector's or a builder's options name."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt

from mixtura.generation.cached import Cached
from mixtura.generation.contract import Generator
from mixtura.generation.local import LocalModel
from mixtura.generation.server import Server, Settings
from mixtura.pipeline import lm
from mixtura.store import home


class Spec(lm.Spec):
    """Options of whatever asks a model: a transformers model here, or any server that speaks OpenAI's protocol."""

    server: str | None = Field(
        default=None,
        description="Base URL of an OpenAI-compatible server, such as http://127.0.0.1:8000/v1; `model` is then its "
        "name there. Without it the model runs here.",
    )
    key_variable: str = Field(
        default="OPENAI_API_KEY", description="Environment variable with the server's key; never written anywhere."
    )
    concurrency: PositiveInt = Field(default=8, description="Requests under way at once; more keep a server busier.")
    timeout_seconds: PositiveFloat = Field(default=120.0, description="Longest wait for one answer of a server.")
    retries: int = Field(default=4, ge=0, description="Further tries after a timeout, a broken answer or a 429 or 5xx.")
    token_budget: PositiveInt | None = Field(
        default=None,
        description="Most tokens, read and written, that a server may bill this process for; then it stops.",
    )

    @property
    def where(self) -> Literal["here", "server"]:
        """Where the model runs."""
        return "server" if self.server else "here"


def open_generator(spec: Spec) -> Generator:
    """The generator that options name; opened once per process, its replies kept in the store that is being written.

    Raises:
        InputError: no such model, or the URL is none.
    """
    own = Spec.model_validate({name: getattr(spec, name) for name in Spec.model_fields})
    if own.server:
        inner: Generator = _server(own.model_dump_json())
    else:
        inner = _local(own.model_dump_json(), lm.locate(own, own.model, key="model").digest)
    folder = home()
    return Cached(inner, folder / "replies") if folder else inner


@lru_cache(maxsize=1)
def _local(options: str, digest: str) -> LocalModel:
    """`digest`: a folder whose files have changed is another model."""
    spec = Spec.model_validate_json(options)
    return LocalModel(lm.open_model(spec), lm.locate(spec, spec.model, key="model"))


@lru_cache(maxsize=4)
def _server(options: str) -> Server:
    spec = Spec.model_validate_json(options)
    settings = Settings(
        key_variable=spec.key_variable, concurrency=spec.concurrency, timeout_seconds=spec.timeout_seconds,
        retries=spec.retries, token_budget=spec.token_budget,
    )  # fmt: skip
    return Server(spec.server or "", spec.model, settings)
