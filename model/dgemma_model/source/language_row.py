"""What a language's grammar calls the things that `syntax` asks about."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Language:
    """One row. Node kinds and tokens are the grammar's own names for them."""

    name: str
    """Ours, and in most cases the identifier that LSP clients send."""
    module: str
    """The Python module that has the grammar; its wheel is called the same with dashes."""
    function: str = "language"
    """The module's function that gives the grammar."""
    other_ids: tuple[str, ...] = ()
    """What else LSP clients call the language."""
    extensions: tuple[str, ...] = ()
    line_comment: str = ""
    """What begins a comment that runs to the end of its line; empty where there is none."""
    comments: frozenset[str] = frozenset({"comment"})
    strings: frozenset[str] = frozenset()
    string_starts: frozenset[str] = frozenset()
    """Tokens that open a string; all that is left of a string that is never closed."""
    interpolations: frozenset[str] = frozenset()
    """Code inside a string."""
    identifiers: frozenset[str] = frozenset({"identifier"})
    """Names, as they are defined and used."""
    imports: frozenset[str] = frozenset()
    scopes: frozenset[str] = frozenset()
    """What is worth keeping whole: functions, classes, and the like."""
    scope_wrappers: frozenset[str] = frozenset()
    """A scope together with what belongs to it: decorators, `export`, a template's parameters."""
    scope_prefixes: frozenset[str] = frozenset()
    """What may come before such a scope: decorators again, each on its own."""
    scope_keywords: frozenset[str] = frozenset()
    """Tokens that open a scope; all that is left of one whose header does not parse."""
    signatures: frozenset[str] = frozenset()
    """Definitions besides `scopes` that other code is written against: types, constants."""
    block_openers: frozenset[str] = frozenset()
    """The last token of a header that a block follows; empty where the header just ends with its line."""
    blocks: frozenset[str] = frozenset()
    """Nodes in which such a token opens a block, whatever the header looks like."""
    block_keywords: frozenset[str] = frozenset()
    """First tokens of headers."""
    named_arguments: frozenset[str] = frozenset()
    """What has a name that may be there only once among its neighbours: arguments, fields, attributes."""
    stand_in: str = "_"
    """A dummy expression, to see what parses around the cursor."""
    is_flat: bool = False
    """Scopes go on to the next one, whatever the indentation."""
    docstrings: bool = False
    """A string may come between header and block."""

    @property
    def package(self) -> str:
        """The grammar's wheel."""
        return self.module.replace("_", "-")


def kinds(names: str) -> frozenset[str]:
    return frozenset(names.split())
