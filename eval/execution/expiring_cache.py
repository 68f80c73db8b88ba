"""A cache whose entries grow stale."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any


class ExpiringCache:
    """At most `capacity` entries, each good for `lifetime` seconds; the least recently used goes first."""

    def __init__(self, capacity: int, lifetime: float, clock: Callable[[], float]) -> None:
        self.capacity = capacity
        self.lifetime = lifetime
        self._clock = clock
        self._entries: OrderedDict[Hashable, tuple[float, Any]] = OrderedDict()
        self.hits = 0
        self.misses = 0

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, key: Hashable, value: Any) -> None:
        """Keep a value, as the most recent one."""
        self._entries[key] = (self._clock() + self.lifetime, value)
        self._entries.move_to_end(key)
        while len(self._entries) > self.capacity:
            self._entries.popitem(last=False)  # hole

    def get(self, key: Hashable, default: Any = None) -> Any:
        """The value of `key` if it is there and fresh."""
        entry = self._entries.get(key)
        if entry is None or entry[0] <= self._clock():  # hole: 4 lines
            self._entries.pop(key, None)
            self.misses += 1
            return default
        self._entries.move_to_end(key)  # hole
        self.hits += 1
        return entry[1]

    def hit_rate(self) -> float:
        """Share of the look-ups that found something; 0 before the first."""
        looked_up = self.hits + self.misses
        return self.hits / looked_up if looked_up else 0.0  # hole


# ---- tests
now = [0.0]
cache = ExpiringCache(2, 10, lambda: now[0])
assert cache.hit_rate() == 0.0
cache.put("a", 1)
cache.put("b", 2)
assert cache.get("a") == 1
cache.put("c", 3)
assert cache.get("b") is None and cache.get("a") == 1 and len(cache) == 2
assert cache.hit_rate() == 2 / 3
now[0] = 11
assert cache.get("c", "gone") == "gone" and len(cache) == 1
assert (cache.hits, cache.misses) == (2, 2)
