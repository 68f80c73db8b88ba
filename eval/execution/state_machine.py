"""An order and the states that it goes through."""

from __future__ import annotations

from dataclasses import dataclass, field

TRANSITIONS = {
    ("new", "pay"): "paid",
    ("new", "cancel"): "cancelled",
    ("paid", "ship"): "shipped",
    ("paid", "cancel"): "refunded",
    ("shipped", "deliver"): "delivered",
}


class TransitionError(Exception):
    """The event is not possible in this state."""


@dataclass
class Order:
    """An order; `history` has every state that it left."""

    state: str = "new"
    history: list[str] = field(default_factory=list)

    def events(self) -> list[str]:
        """What may happen next, in alphabetical order."""
        return sorted(event for state, event in TRANSITIONS if state == self.state)  # hole

    def handle(self, event: str) -> str:
        """Go to the next state and return it."""
        try:  # hole: 4 lines
            following = TRANSITIONS[self.state, event]
        except KeyError:
            raise TransitionError(f"cannot {event} an order that is {self.state}") from None
        self.history.append(self.state)  # hole: 3 lines
        self.state = following
        return following

    @property
    def is_final(self) -> bool:
        """Nothing can happen any more."""
        return not self.events()  # hole


def paths(state: str = "new") -> list[list[str]]:
    """Every way from a state to a final one, as lists of events."""
    found = []
    for (source, event), target in TRANSITIONS.items():
        if source == state:  # hole: 2 lines
            found += [[event, *rest] for rest in paths(target)]
    return found or [[]]


# ---- tests
order = Order()
assert order.events() == ["cancel", "pay"] and not order.is_final
assert order.handle("pay") == "paid" and order.handle("ship") == "shipped"
assert order.history == ["new", "paid"] and order.state == "shipped"
try:
    order.handle("cancel")
except TransitionError:
    assert order.state == "shipped" and order.history == ["new", "paid"]
else:
    raise AssertionError("no error")
order.handle("deliver")
assert order.is_final
assert paths() == [["pay", "ship", "deliver"], ["pay", "cancel"], ["cancel"]]
assert paths("delivered") == [[]]
