"""How often ordinary code is taken for a secret and hidden from the model: lines of installed packages.

    python eval/secret_rate.py .venv/lib/python3.11/site-packages --files 1000

Draws Python files of at least ten lines below the folder, the same ones for the same packages, and prints how many of
their lines `dgemma_lsp.documents.masking` changes, with the first of them. Results are in log/faults-files.md.
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path

from rich.console import Console

from dgemma_lsp.documents.masking import masked

LEAST_LINES, MOST_CHARS = 10, 300_000
SHOWN = 20


def main() -> None:
    """Count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--files", type=int, default=1000)
    asked = parser.parse_args()
    console = Console(soft_wrap=True, highlight=False, markup=False)
    paths = sorted(asked.folder.rglob("*.py"))
    random.Random(0).shuffle(paths)
    files, lines, chars, seconds, hidden = 0, 0, 0, 0.0, list[str]()
    for path in paths:
        text = path.read_text("utf-8", "replace")
        before = text.splitlines()
        if files == asked.files or len(before) < LEAST_LINES or len(text) > MOST_CHARS:
            continue
        began = time.process_time()
        after = masked(text).splitlines()
        seconds += time.process_time() - began
        files, lines, chars = files + 1, lines + len(before), chars + len(text)
        if len(before) == len(after):
            changed = [old for old, new in zip(before, after, strict=True) if old != new]
        else:  # a secret of several lines
            changed = before[: abs(len(before) - len(after))]
        hidden += (f"{path.relative_to(asked.folder)}: {line.strip()[:120]}" for line in changed)
    for line in hidden[:SHOWN]:
        console.print(line)
    share = 100 * len(hidden) / max(1, lines)
    speed = 1e6 * seconds / max(1, chars)
    console.print(f"{files} files, {lines:,} lines: {len(hidden)} hidden ({share:.4f} %), {speed:.2f} µs a character")


if __name__ == "__main__":
    main()
