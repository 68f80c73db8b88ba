"""When an engine that failed is asked again: after a while that doubles with each failure, so that no storm begins."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from dgemma_lsp.engine.errors import EngineError

FIRST_S = 0.5
LONGEST_S = 10.0


class Outage:
    """Remembers failures in a row. `clock` tells seconds; `chance` gives numbers from 0 to 1, by which the engines of a
    team's editors are not all asked at the same moment."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, chance: Callable[[], float] = random.random
    ) -> None:
        self._clock, self._chance = clock, chance
        self._failures = 0
        self._until = 0.0
        self._last: EngineError | None = None

    def check(self) -> None:
        """Raises:
        EngineError: what went wrong last, where it is too early to try again.
        """
        if self._last is not None and self._clock() < self._until:
            raise EngineError(self._last.reason, str(self._last))

    def failed(self, error: EngineError) -> None:
        """The engine has failed now."""
        wait_s = min(LONGEST_S, FIRST_S * 2**self._failures) * (0.5 + 0.5 * self._chance())
        self._failures = min(self._failures + 1, 16)
        self._until = self._clock() + max(wait_s, error.wait_s or 0.0)
        self._last = error

    def ended(self) -> None:
        """The engine has answered."""
        self._failures, self._last = 0, None
