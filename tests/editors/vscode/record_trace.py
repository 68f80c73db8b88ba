"""Record a session of typing in the real VS Code against the real server:

    python tests/editors/vscode/record_trace.py


It writes tests/traces/vscode.jsonl. What the checkpoint says decides what is accepted in it.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from code_server import ROOT, install_extensions
from vscode import REAL, Editor

TRACE = ROOT / "tests" / "traces" / "vscode.jsonl"
OPENED = '''"""Shapes."""


class Rectangle:
    def __init__(self, width, height):
        self.width = width
        self.height = height

    def area(self):
        return self.width * self.height

'''
AS_TYPED = {"editor.autoIndent": "none", "editor.acceptSuggestionOnEnter": "off"}
KEY_MS, PAUSE_S = 70, 0.9


def main() -> None:
    """Type, pause, accept, type along, dismiss."""
    home = Path(tempfile.mkdtemp(prefix="trace"))
    install_extensions(home / "extensions", home)
    recorder = [sys.executable, str(ROOT / "tests" / "traces" / "record.py"), *REAL]
    editor = Editor(home / "home", home / "extensions", ["env", f"DGEMMA_TRACE={TRACE}", *recorder], **AS_TYPED)
    try:
        editor.open(OPENED)
        editor.wait_ready()

        def typed(text: str, then: str = "") -> None:
            editor.type(text, KEY_MS)
            time.sleep(PAUSE_S)
            ghost = editor.ghost()
            print(f"typed {text!r}, drawn {ghost!r}, {then}")
            if ghost and then == "accept":
                editor.press("Tab")
            elif ghost and then == "word":
                editor.press("Control+ArrowRight")
            elif ghost and then == "along":
                editor.type(ghost.split("\n")[0][:6], KEY_MS)
            elif ghost and then == "dismiss":
                editor.press("Escape")
            time.sleep(PAUSE_S / 3)

        typed("\n    def perimeter(self):", "dismiss")
        typed("\n        return ", "along")
        typed(" + 2 * (self.", "accept")
        editor.press("End")
        typed("\n\n    def is_square(self):\n        return self.w", "word")
        typed("", "accept")
        editor.press("End")
        typed("\n\n    def scaled(self, factor):\n        return Rectangle(self.", "along")
        typed("", "word")
        editor.press("End")
        typed("\n\n    # the larger of two", "dismiss")
        typed("\n    def larger(self, other):\n        if self.area() > ", "accept")
        editor.press("End", "Backspace", "Backspace")
        typed("()", "dismiss")
        editor.picture("trace")
        print(editor.text())
        editor.command("workbench.action.files.save")
    finally:
        editor.close()


if __name__ == "__main__":
    main()
