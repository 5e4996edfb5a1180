"""Options of whatever asks a model; apart from `opening`, so that a worker that asks none loads no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt

from mixtura.pipeline import lm


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
