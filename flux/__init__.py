"""Flux keeps the history of what code did, as git keeps the history of what it looked like."""

__version__ = "0.1.0"
