"""How long it may take from an empty home to the first suggestion of the default checkpoint."""

from __future__ import annotations

import os
import time
import warnings

LIMIT_S = 300
"""With packages that pip has at hand."""
BUSY = 2.0
"""A machine whose processes, by the average of five minutes, are so many times its cores says nothing about time."""


def assert_in_time(began: float) -> None:
    """Compare the time since `began`, in seconds of `time.monotonic()`, with the limit; on a busy machine only warn."""
    took_s = time.monotonic() - began
    waiting = os.getloadavg()[1] / (os.cpu_count() or 1)
    if took_s >= LIMIT_S and waiting > BUSY:
        warnings.warn(
            f"NOT TESTED: the first suggestion took {took_s:.0f} s, with {waiting:.1f} processes to a core",
            stacklevel=2,
        )
    else:
        assert took_s < LIMIT_S
