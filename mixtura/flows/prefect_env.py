"""Prefect's settings for a run from the command line; set before prefect is imported, which reads them once."""

from __future__ import annotations

import os

SOUND = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",  # also avoids a "database is locked" traceback on the first start
}
EMBEDDED = {
    "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",  # the first start migrates its database
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",  # the terminal has our lines; the server still gets its log
    "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
}


def prepare() -> None:
    """Set what the user has not set, for runs in this process: the terminal is the command's own."""
    for name, value in (SOUND | EMBEDDED).items():
        os.environ.setdefault(name, value)


def prepare_to_serve() -> None:
    """Set what the user has not set, for runs in processes of their own, whose log lines are all one sees of them."""
    for name, value in SOUND.items():
        os.environ.setdefault(name, value)
