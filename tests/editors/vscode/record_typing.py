"""The moving picture of the extension's README, and that of a suggestion:

    python tests/editors/vscode/record_typing.py


They come from the real VS Code with the packaged extension (`make vscode`) and the embedded checkpoint: where that
suggests something else at these places, this says so, and other places have to be found.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from PIL import Image
from vscode import REAL, ROOT, Editor, install_extensions

IMAGES = ROOT / "editors" / "vscode" / "images"
CLIP = {"x": 0, "y": 36, "width": 640, "height": 330}
COLOURS = 48
KEY_MS, LOOK_MS = 90, 1600
OPENED = """class Inventory:
    def __init__(self, items):
        self.items = items

    def total(self):
        return sum(item.total() for item in self.items)
"""


class Recording:
    """Frames of a window, with the milliseconds that each is shown."""

    def __init__(self, editor: Editor) -> None:
        self._editor = editor
        self._frames: list[tuple[Image.Image, int]] = []

    def look(self, ms: int) -> None:
        """Take a frame."""
        path = self._editor.home / "frame.png"
        self._editor.browser("screenshot", str(path), CLIP)
        with Image.open(path) as taken:
            frame = taken.convert("RGB")
        if self._frames and self._frames[-1][0] == frame:
            self._frames[-1] = frame, self._frames[-1][1] + ms
        else:
            self._frames.append((frame, ms))

    def type(self, text: str) -> None:
        """Type, a frame for each key."""
        for key in text:
            self._editor.type(key)
            self.look(KEY_MS)

    def press(self, key: str, ms: int) -> None:
        self._editor.press(key)
        time.sleep(0.3)  # what it does is drawn a little later
        self.look(ms)

    def save(self, path: Path) -> None:
        """Write a GIF that begins again when it is over."""
        palette = self._frames[-1][0].quantize(COLOURS)
        first, *others = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame, _ in self._frames]
        times = [ms for _, ms in self._frames]
        first.save(path, save_all=True, append_images=others, duration=times, loop=0, optimize=True)
        print(f"{path.relative_to(ROOT)}: {len(times)} frames, {path.stat().st_size / 1000:.0f} kB")


def main() -> None:
    """Type, look, accept, accept word by word."""
    home = Path(tempfile.mkdtemp(prefix="recording"))
    install_extensions(home / "extensions", home)
    as_typed = {"editor.autoIndent": "none", "dgemma.debounce_ms": 0, "dgemma.time_budget_ms": 5000}
    editor = Editor(home / "home", home / "extensions", REAL, **as_typed)
    try:
        editor.open(OPENED, "shop.py")
        editor.wait_ready()
        recording = Recording(editor)

        def suggested(text: str) -> None:
            editor.wait(lambda: editor.ghost() == text, f"{text!r} is suggested")
            time.sleep(0.3)
            recording.look(LOOK_MS)

        recording.look(500)
        recording.type("\n    def add(self, item):\n        self.items.")
        suggested("append(item)")
        recording.press("Tab", 900)
        recording.type("\n\n    def names(self):\n        return sorted(item.name ")
        suggested("for item in self.items")
        editor.browser("screenshot", str(IMAGES / "ghost.png"), {"x": 0, "y": 0, "width": 1000, "height": 400})
        for _ in range(2):
            recording.press("Control+ArrowRight", 700)
        recording.press("Tab", 1800)
        recording.save(IMAGES / "typing.gif")
        print(editor.text())
    finally:
        editor.close()


if __name__ == "__main__":
    main()
