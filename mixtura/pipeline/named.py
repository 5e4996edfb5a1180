"""A selector or a builder as a recipe names it: its word, its options, and the language model that these name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from mixtura import registry
from mixtura.pipeline.lm import Located


@dataclass(frozen=True)
class Named:
    """Picklable, and part of an artefact's key.

    word: the file's stem and the recipe's word.
    options: as JSON.
    model: the language model that `options` name, on this machine; None where they name none, or a server has it.
    """

    kind: ClassVar[registry.Kind]

    word: str
    options: dict[str, Any]
    model: Located | None = None

    @property
    def found(self) -> Any:
        """The selector or builder object."""
        return registry.find(self.kind, self.word)

    @property
    def spec(self) -> Any:
        """The options as its own model; a language model by its folder here."""
        return self.found.Spec.model_validate(self.options | ({"model": self.model.folder} if self.model else {}))

    @property
    def keyed_options(self) -> dict[str, Any]:
        """The options as an artefact's key has them: a language model counts by its contents, wherever it lies."""
        return self.options | ({"model": self.model.identity} if self.model else {})

    @property
    def module(self) -> str:
        """Where its code is."""
        return registry.words(self.kind)[self.word]
