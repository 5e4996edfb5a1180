"""The minimal trainer that judges a mixture by fine-tuning: any transformers causal LM, or a tiny one.

`train` is the whole of it; `prepare_tiny` makes a small start model that two mixtures can share.
Importing this package imports torch and transformers.
"""

from mixtura.trainer.loop import Progress
from mixtura.trainer.model import prepare_tiny
from mixtura.trainer.session import train

__all__ = ["Progress", "prepare_tiny", "train"]
