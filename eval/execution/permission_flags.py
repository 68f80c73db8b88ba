"""Who may do what with a document."""

from __future__ import annotations

from enum import Enum, Flag, auto


class Right(Flag):
    """Rights that can be combined."""

    NONE = 0
    READ = auto()
    COMMENT = auto()
    EDIT = auto()
    SHARE = auto()


class Role(Enum):
    """Usual combinations."""

    GUEST = Right.READ
    REVIEWER = Right.READ | Right.COMMENT
    AUTHOR = Right.READ | Right.COMMENT | Right.EDIT

    def can(self, right: Right) -> bool:
        """Whether the role includes all of `right`."""
        return right in self.value  # hole


class Document:
    """A document with the rights of each person beyond those of a guest."""

    def __init__(self, owner: str) -> None:
        self.owner = owner
        self._granted: dict[str, Right] = {}

    def grant(self, person: str, right: Right) -> None:
        """Add rights."""
        self._granted[person] = self._granted.get(person, Right.NONE) | right  # hole

    def revoke(self, person: str, right: Right) -> None:
        """Take rights away; who has none left is forgotten."""
        left = self._granted.get(person, Right.NONE) & ~right
        if left:  # hole: 4 lines
            self._granted[person] = left
        else:
            self._granted.pop(person, None)

    def rights(self, person: str) -> Right:
        """What a person may do; the owner may do everything."""
        if person == self.owner:
            return ~Right.NONE  # hole
        return self._granted.get(person, Right.NONE) | Role.GUEST.value

    def editors(self) -> list[str]:
        """Everybody with the right to edit, the owner first, the others by name."""
        others = sorted(person for person, right in self._granted.items() if Right.EDIT in right)
        return [self.owner, *others]  # hole


# ---- tests
assert Role.REVIEWER.can(Right.COMMENT) and not Role.REVIEWER.can(Right.EDIT)
assert Role.AUTHOR.can(Right.READ | Right.EDIT)
paper = Document("olga")
paper.grant("zoe", Right.EDIT)
paper.grant("bert", Right.COMMENT)
paper.grant("bert", Right.EDIT)
assert paper.rights("bert") == Role.AUTHOR.value
assert paper.rights("olga") == Right.READ | Right.COMMENT | Right.EDIT | Right.SHARE
assert paper.rights("nobody") == Right.READ
assert paper.editors() == ["olga", "bert", "zoe"]
paper.revoke("bert", Right.EDIT)
assert paper.editors() == ["olga", "zoe"] and paper.rights("bert") == Role.REVIEWER.value
paper.revoke("zoe", Right.EDIT)
assert "zoe" not in paper._granted
