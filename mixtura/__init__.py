"""Mixtura: from raw corpora to the training mixture that moves a model most."""

__version__ = "0.1.0"
