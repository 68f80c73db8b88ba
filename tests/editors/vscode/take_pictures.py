"""The pictures of the extension's README and walkthrough, light and dark:

    python tests/editors/vscode/take_pictures.py

They come from the real VS Code with the packaged extension (`make vscode`) and the default checkpoint
(`dgemma-lsp pull`). Where that suggests something else at these places, this says so, and other places have to be
found. `watching-terminal.svg` is what `make test` leaves in `.cache/pictures`.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from code_server import ROOT, install_extensions
from default_writer import ALIKE
from PIL import Image
from users_store import USERS_STORE
from vscode import REAL, Editor

IMAGES = ROOT / "editors" / "vscode" / "images"
THEMES = {"dark": "Default Dark Modern", "light": "Default Light Modern"}
CLIP = {"x": 0, "y": 36, "width": 660, "height": 420}
COLOURS = 48
KEY_MS, LOOK_MS = 90, 1800
BASKET = """interface Item {
  name: string;
  price: number;
}

class Basket {
  private items: Item[] = [];

  add(item: Item): void {
    this.items.push(item);
  }


}
"""
AT_A_METHOD = (12, 0)
UNFINISHED = """package inventory

import "errors"

type Item struct {
\tName     string
\tQuantity int
}

// Find returns the item with that name.
func Find(items []Item, name string) (*Item, error) {
\t// TODO: look through the items
\treturn nil, errors.New("no such item")
}
"""
AT_THE_HOLE = (11, 32)


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

    def suggested(self, text: str) -> None:
        """Wait until exactly this is drawn in grey, and look at it."""
        self._editor.wait(lambda: self._editor.ghost() == text, f"{text!r} is suggested")
        time.sleep(0.3)
        self.look(LOOK_MS)

    def save(self, path: Path) -> None:
        """Write a GIF that begins again when it is over."""
        palette = self._frames[-1][0].quantize(COLOURS)
        first, *others = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame, _ in self._frames]
        times = [ms for _, ms in self._frames]
        first.save(path, save_all=True, append_images=others, duration=times, loop=0, optimize=True)
        print(f"{path.relative_to(ROOT)}: {len(times)} frames, {path.stat().st_size / 1000:.0f} kB")


def typing(editor: Editor, theme: str) -> None:
    """Type a method, look, accept; another one, and accept it word by word."""
    editor.open(BASKET, "basket.ts")
    editor.select(AT_A_METHOD)
    editor.wait_ready()
    recording = Recording(editor)
    recording.look(500)
    recording.type("  total(): number {\n")
    recording.suggested("return this.items.reduce((total, item) => total + item.price, 0);")
    editor.browser("screenshot", str(IMAGES / f"ghost-{theme}.png"), {"x": 0, "y": 0, "width": 1000, "height": 460})
    recording.press("Tab", 900)
    editor.press("ArrowDown", "End")
    recording.type("\n\nfind(name: string): Item | undefined {\n")
    recording.suggested("return this.items.find(item => item.name === name);")
    for _ in range(3):
        recording.press("Control+ArrowRight", 600)
    recording.press("Tab", 2000)
    recording.save(IMAGES / f"typing-{theme}.gif")
    print(editor.text())


def quick_fix(editor: Editor, theme: str) -> None:
    """The menu at a comment that says what is to be done."""
    editor.open(UNFINISHED, "inventory.go")
    editor.select(AT_THE_HOLE)
    editor.start_command("editor.action.quickFix")
    editor.wait(lambda: editor.shows(".action-widget .monaco-list-row"), "the menu is open")
    time.sleep(0.3)
    editor.browser("screenshot", str(IMAGES / f"quickfix-{theme}.png"))
    editor.press("Escape")


def status(editor: Editor, theme: str) -> None:
    """What the braces say."""
    editor.browser("click", "#status\\.languageStatus")
    editor.wait(lambda: editor.shows(".monaco-hover .hover-language-status"), "the status is shown")
    time.sleep(0.3)
    editor.browser("screenshot", str(IMAGES / f"status-{theme}.png"))
    editor.press("Escape")


def watching(editor: Editor, theme: str) -> None:
    """The first pass of a fill, which had a draft: the function above begins alike."""
    editor.open(ALIKE, "area.py")
    editor.select((5, 4))
    editor.command("dgemma.watch")
    ended = "document.querySelector('#end')?.innerText.match(/\\d+ tokens in \\d+ pass/)?.length"
    editor.wait(lambda: editor.browser("evaluateInFrames", ended), "it comes to an end")
    first = "(() => { const s = document.querySelector('#step'); if (!s) return null; s.value = 0;"
    first += "s.dispatchEvent(new Event('input')); return true })()"
    editor.wait(lambda: editor.browser("evaluateInFrames", first), "the first pass is shown")
    time.sleep(0.3)
    editor.browser("screenshot", str(IMAGES / f"watching-{theme}.png"))


def main() -> None:
    """All of them, in each theme."""
    for theme, name in THEMES.items():
        home = Path(tempfile.mkdtemp(prefix="pictures"))
        install_extensions(home / "extensions", home)
        settings = {"workbench.colorTheme": name, "dgemma.debounce_ms": 0, "dgemma.time_budget_ms": 10000}
        server = ["env", f"DGEMMA_CHECKPOINTS={USERS_STORE}", *REAL]
        editor = Editor(home / "home", home / "extensions", server, **settings)
        try:
            for take in (typing, quick_fix, status, watching):
                take(editor, theme)
        finally:
            editor.close()


if __name__ == "__main__":
    main()
