"""The entry point of the program. It serves an editor directly, and imports the command line (`cli`) for all else.

Editors start the server with no options, or with a checkpoint and a device. Importing the libraries of the command line
for that would take a quarter of a second, and 8 MB for as long as the editor runs.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

OPTIONS = ("checkpoint", "device")
"""Options that are read here; `cli.serve` has all of them."""


def main() -> None:
    """Run the program with the arguments of this process."""
    # Run by its path, Python would find a user's `json.py` in the working directory before its own.
    if sys.path and sys.path[0] in ("", str(Path.cwd())) and not sys.flags.safe_path:
        sys.path.pop(0)
    options = plain_options(sys.argv[1:])
    if options is None:
        from dgemma_lsp.command import cli

        cli.main()
    else:
        from dgemma_lsp.server.server import serve_stdio

        serve_stdio(checkpoint=options.get("checkpoint"), device=options.get("device"))


def plain_options(arguments: Sequence[str]) -> dict[str, str] | None:
    """The options of a server on standard input and output, by name; None if other arguments are there too."""
    found: dict[str, str] = {}
    rest = list(arguments)
    while rest:
        name, given, value = rest.pop(0).partition("=")
        if not given and rest:
            value = rest.pop(0)
        option = name.removeprefix("--")
        if not name.startswith("--") or option not in OPTIONS or not value or value.startswith("-"):
            return None
        found[option] = value
    return found
