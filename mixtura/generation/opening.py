"""Open the generator that a selector's or a builder's options name."""

from __future__ import annotations

from functools import lru_cache

from mixtura.generation.cached import Cached
from mixtura.generation.contract import Generator
from mixtura.generation.local import LocalModel
from mixtura.generation.options import Spec
from mixtura.generation.server import Server, Settings
from mixtura.pipeline import lm
from mixtura.store import home


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
