"""What can be wrong with a checkpoint, for modules that must not import torch."""

from __future__ import annotations


class CheckpointError(Exception):
    """A checkpoint that cannot be used; the message is for users and says what to do."""
