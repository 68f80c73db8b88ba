"""When an engine that failed is asked again: the pause doubles with each failure in a row (exponential backoff)."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from dgemma_lsp.engine.errors import EngineError

FIRST_S, LONGEST_S = 0.5, 10.0
"""The first pause and the longest one, in seconds, before chance shortens them by up to half."""


class Outage:
    """Counts failures in a row, and refuses requests during the pause after each."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, chance: Callable[[], float] = random.random
    ) -> None:
        """`clock` tells seconds. `chance` gives random numbers from 0 to 1, so that the editors of a team do not all
        ask again at the same moment."""
        self._clock, self._chance = clock, chance
        self._failures = 0
        self._until = 0.0
        self._last: EngineError | None = None

    def check(self) -> None:
        """Return if the engine may be asked now.

        Raises:
            EngineError: the latest failure, because its pause has not passed yet.
        """
        if self._last is not None and self._clock() < self._until:
            raise EngineError(self._last.reason, str(self._last))

    def failed(self, error: EngineError) -> None:
        """Begin a pause: the engine has just failed with `error`."""
        wait_s = min(LONGEST_S, FIRST_S * 2**self._failures) * (0.5 + 0.5 * self._chance())
        self._failures = min(self._failures + 1, 16)
        self._until = self._clock() + max(wait_s, error.wait_s or 0.0)
        self._last = error

    def recovered(self) -> None:
        """Forget all failures: the engine has answered."""
        self._failures, self._last = 0, None
