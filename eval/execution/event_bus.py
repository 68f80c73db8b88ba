"""Callbacks by the name of an event."""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

Listener = Callable[..., Any]


class EventBus:
    """Calls whoever has subscribed, in order of subscription."""

    def __init__(self) -> None:
        self._listeners: defaultdict[str, list[Listener]] = defaultdict(list)
        self.errors: list[Exception] = []

    def subscribe(self, event: str, listener: Listener) -> Callable[[], None]:
        """Call `listener` for every such event; returns a function that ends the subscription."""
        self._listeners[event].append(listener)  # hole

        def unsubscribe() -> None:
            if listener in self._listeners[event]:
                self._listeners[event].remove(listener)  # hole

        return unsubscribe

    def once(self, event: str, listener: Listener) -> None:
        """Call `listener` for the next such event only."""

        def call_and_leave(**details: Any) -> None:
            leave()  # hole: 2 lines
            listener(**details)

        leave = self.subscribe(event, call_and_leave)

    def publish(self, event: str, **details: Any) -> int:
        """Tell every listener; an error in one does not keep the others from hearing. Returns how many succeeded."""
        heard = 0
        for listener in list(self._listeners[event]):
            try:  # hole: 6 lines
                listener(**details)
            except Exception as error:
                self.errors.append(error)
            else:
                heard += 1
        return heard


# ---- tests
bus = EventBus()
log: list[Any] = []
stop = bus.subscribe("save", lambda path: log.append(path))
bus.once("save", lambda path: log.append(path.upper()))
assert bus.publish("save", path="a") == 2
assert bus.publish("save", path="b") == 1
assert log == ["a", "A", "b"]
bus.subscribe("save", lambda path: 1 / 0)
bus.subscribe("save", lambda path: log.append("last"))
assert bus.publish("save", path="c") == 2
assert log[-2:] == ["c", "last"] and isinstance(bus.errors[0], ZeroDivisionError)
stop()
stop()
assert bus.publish("save", path="d") == 1
assert bus.publish("open") == 0
