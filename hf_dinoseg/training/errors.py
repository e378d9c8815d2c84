"""What can be wrong with a run, as opposed to its recipe or its data."""

from __future__ import annotations


class RunError(RuntimeError):
    """A run that cannot start or go on; the message says what was found, where, and what to do."""
