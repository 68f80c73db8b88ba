"""Keeps tests apart from the checkpoints that whoever runs them has pulled: the default is then the embedded one."""

from __future__ import annotations

import os
import tempfile

from dgemma_model.checkpoint import store

USERS_STORE = store.root()
"""Where those are, for tests that need real weights."""
_EMPTY = tempfile.TemporaryDirectory()
os.environ["DGEMMA_CHECKPOINTS"] = _EMPTY.name
