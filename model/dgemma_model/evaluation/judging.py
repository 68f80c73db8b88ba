"""How one fill is judged: against what was there, by the syntax, by tests, and as what an editor would show of it."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cached_property, lru_cache

from dgemma_model.evaluation.held_out import Case
from dgemma_model.source import structure, syntax
from dgemma_model.source.python_parser import finds_fault


@dataclass(frozen=True)
class Fill:
    """How one case was filled. What is found out about it is found out once: each fill counts in several rows."""

    case: Case
    texts: tuple[str, ...]
    """What was put into its holes."""
    ms: float = 0.0
    """From the request to the last draft, with nothing known of the prompt."""
    passes: int = 0
    revised: int = 0
    score: float | None = None
    """The draft's, in nats, where a model filled."""
    passed: bool | None = None
    """Whether the case's tests passed, where it has some."""
    proposed: str | None = None
    """The text with the server's suggestion in it, however doubtful; None where it had none."""
    is_offered: bool | None = None
    """Whether the server offers that unasked; None where it was not asked."""
    failure: str = ""
    """Why the model could not fill, where it could not."""

    @cached_property
    def is_exact(self) -> bool | None:
        """Exactly what was there, blanks at the ends of lines aside; None where nobody knows what that was."""
        return None if self.case.middles is None else all(self.exact_holes)

    @cached_property
    def exact_holes(self) -> list[bool]:
        """The same hole by hole; empty where nobody knows."""
        return [stripped(a) == stripped(b) for a, b in zip(self.texts, self.case.middles or (), strict=False)]

    @cached_property
    def similarity(self) -> float | None:
        """Edit similarity to what was there, 0 to 1; the mean over the holes."""
        if self.case.middles is None:
            return None
        return sum(map(similarity, self.texts, self.case.middles)) / len(self.texts)

    @cached_property
    def parses(self) -> bool:
        """The filled text has no more syntax errors than the original; where that is not known, none at all."""
        return _parses(self.case, self.case.filled(self.texts))

    @cached_property
    def has_same_tree(self) -> bool | None:
        """The filled text says the same as the original, whatever its layout."""
        if self.case.middles is None:
            return None
        original = self.case.filled(self.case.middles)
        language, filled = self.case.language, self.case.filled(self.texts)
        return bool(self.is_exact) or _tree_digest(language, filled) == _tree_digest(language, original)

    @cached_property
    def is_proposal_right(self) -> bool:
        """The server's suggestion is what was there, or the first lines of it."""
        case = self.case
        if self.proposed is None or case.middles is None:
            return False
        lines = case.middles[0].split("\n")
        right = (case.filled(["\n".join(lines[:count])]) for count in range(1, len(lines) + 1))
        return any(stripped(self.proposed) == stripped(text) for text in right)

    @cached_property
    def does_proposal_parse(self) -> bool:
        """The text with the server's suggestion has no more syntax errors than the original, and Python itself
        parses it if it does the original."""
        case = self.case
        if self.proposed is None or not _parses(case, self.proposed):
            return False
        is_judged = case.language == "python" and (case.middles is None or _compiles(case.filled(case.middles)))
        return not is_judged or _compiles(self.proposed)


def stripped(text: str) -> str:
    """`text` without blanks at the ends of lines, and at its own."""
    return "\n".join(line.rstrip() for line in text.rstrip().split("\n"))


def similarity(text: str, original: str) -> float:
    """Edit similarity of two texts, 0 to 1 (Ratcliff and Obershelp's, as `difflib` has it)."""
    return SequenceMatcher(None, text, original, autojunk=False).ratio()


@lru_cache(maxsize=8192)
def _errors(language: str, text: str) -> int:
    """Places that do not parse; none in a language without a grammar."""
    tree = syntax.parse(language, text)
    return 0 if tree is None else syntax.error_count(tree)


@lru_cache(maxsize=8192)
def _compiles(text: str) -> bool:
    return not finds_fault(text, 1, text.count("\n") + 1)


@lru_cache(maxsize=8192)
def _tree_digest(language: str, text: str) -> int:
    """Of the syntax tree; of the text itself in a language without a grammar."""
    tree = syntax.parse(language, text)
    return hash(text) if tree is None else hash(tuple(structure.structure(tree)))


def _parses(case: Case, text: str) -> bool:
    tolerated = 0 if case.middles is None else _errors(case.language, case.filled(case.middles))
    return _errors(case.language, text) <= tolerated
