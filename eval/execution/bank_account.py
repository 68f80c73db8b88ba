"""Accounts that hold whole cents."""

from __future__ import annotations

from dataclasses import dataclass, field


class InsufficientFundsError(Exception):
    """The account would fall below its limit."""


@dataclass
class Account:
    """An account with its bookings; `overdraft` is how far below zero it may go."""

    owner: str
    overdraft: int = 0
    bookings: list[int] = field(default_factory=list)

    @property
    def balance(self) -> int:
        """What is on the account, in cents."""
        return sum(self.bookings)  # hole

    def deposit(self, cents: int) -> None:
        """Pay in."""
        if cents <= 0:
            raise ValueError("a deposit must be positive")
        self.bookings.append(cents)  # hole

    def withdraw(self, cents: int) -> None:
        """Pay out, if the limit allows it."""
        if self.balance - cents < -self.overdraft:  # hole: 3 lines
            raise InsufficientFundsError(f"{self.owner} lacks {cents - self.balance - self.overdraft} cents")
        self.bookings.append(-cents)

    def transfer(self, other: Account, cents: int) -> None:
        """Move money to another account."""
        self.withdraw(cents)  # hole: 2 lines
        other.deposit(cents)


def total_by_owner(accounts: list[Account]) -> dict[str, int]:
    """The sum of all accounts of each owner."""
    totals: dict[str, int] = {}
    for account in accounts:
        totals[account.owner] = totals.get(account.owner, 0) + account.balance  # hole
    return totals


# ---- tests
mine, yours = Account("Mo", overdraft=100), Account("Yu")
mine.deposit(500)
mine.transfer(yours, 550)
assert (mine.balance, yours.balance) == (-50, 550)
assert mine.bookings == [500, -550]
try:
    mine.withdraw(51)
except InsufficientFundsError:
    pass
else:
    raise AssertionError("too much was paid out")
mine.withdraw(50)
assert mine.balance == -100
assert total_by_owner([mine, yours, Account("Mo", bookings=[7])]) == {"Mo": -93, "Yu": 550}
