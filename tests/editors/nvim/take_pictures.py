"""The pictures of editors/nvim/README.md, out of a real Neovim: `python tests/editors/nvim/take_pictures.py`.

They are drawn as SVG, light and dark, from what Neovim sends to its screens. The server is the real one with the
default checkpoint (`dgemma-lsp pull`): where that suggests something else at these places, this says so, and other
places have to be found.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby, product
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from editor import REAL, ROOT, Editor, neovims
from users_store import USERS_STORE

IMAGES = ROOT / "editors" / "nvim" / "images"
WIDTH, HEIGHT = 76, 22
CELL, ROW, MARGIN = 8.4, 18, 8
"""Sizes in pixels, for the font below."""
STYLE = "font: 14px 'DejaVu Sans Mono', Menlo, Consolas, monospace"
KEY_MS, LOOK_MS = 70, 1600

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
RENAMED = '''def area(width, height):
    """Of a rectangle."""
    if width < 0 or height < 0:
        return 0
    return width * height
'''


@dataclass
class Screen:
    """What Neovim has drawn: a character and a highlight for each cell."""

    cells: list[list[tuple[str, int]]] = field(default_factory=list)
    highlights: dict[int, dict[str, Any]] = field(default_factory=lambda: {0: {}})
    colours: tuple[int, int] = (0xFFFFFF, 0)
    cursor: tuple[int, int] = (0, 0)

    def take(self, events: list[Any]) -> None:
        """Take a batch of redraw events (`:help ui-linegrid`)."""
        for name, *calls in events:
            for call in calls:
                match name, call:
                    case "grid_resize", [_, width, height]:
                        self.cells = [[(" ", 0)] * width for _ in range(height)]
                    case "grid_clear", _:
                        self.cells = [[(" ", 0)] * len(row) for row in self.cells]
                    case "default_colors_set", [foreground, background, *_]:
                        self.colours = foreground, background
                    case "hl_attr_define", [number, colours, *_]:
                        self.highlights[number] = colours
                    case "grid_cursor_goto", [_, row, column]:
                        self.cursor = row, column
                    case "grid_line", [_, row, column, cells, *_]:
                        self._write(row, column, cells)
                    case "grid_scroll", [_, top, bottom, left, right, rows, _]:
                        self._scroll(top, bottom, left, right, rows)

    def _write(self, row: int, column: int, cells: list[list[Any]]) -> None:
        highlight = 0
        for text, *more in cells:
            highlight, repeated = [*more, 1][:2] if more else (highlight, 1)
            for _ in range(repeated):
                self.cells[row][column] = text, highlight
                column += 1

    def _scroll(self, top: int, bottom: int, left: int, right: int, rows: int) -> None:
        old = [row[left:right] for row in self.cells]
        for row in range(max(top, top - rows), min(bottom, bottom - rows)):
            self.cells[row][left:right] = old[row + rows]

    def svg(self) -> str:
        """The screen, with its cursor, as elements of an SVG."""
        return "".join(self._line(row) for row in range(len(self.cells)))

    def _line(self, row: int) -> str:
        found, column = "", 0
        places = [(text, look, (row, at) == self.cursor) for at, (text, look) in enumerate(self.cells[row])]
        for (look, is_cursor), run in groupby(places, lambda place: place[1:]):
            text = "".join(place[0] for place in run)
            found += self._run(text, self.highlights[look], is_cursor, row, column)
            column += len(text)
        return found

    def _run(self, text: str, look: dict[str, Any], is_cursor: bool, row: int, column: int) -> str:
        foreground, background = look.get("foreground", self.colours[0]), look.get("background", self.colours[1])
        if bool(look.get("reverse")) != is_cursor:
            foreground, background = background, foreground
        x, y, found = MARGIN + column * CELL, MARGIN + row * ROW, ""
        if background != self.colours[1]:
            size = f'width="{len(text) * CELL:.1f}" height="{ROW}"'
            found += f'<rect x="{x:.1f}" y="{y}" {size} fill="#{background:06x}"/>'
        weight = ' font-weight="bold"' if look.get("bold") else ""
        for words in re.finditer(r"\S+(?: \S+)*", text):  # several spaces in a row would be one
            begins, length = x + words.start() * CELL, len(words[0]) * CELL
            found += f'<text x="{begins:.1f}" y="{y + 14}" textLength="{length:.1f}" '
            found += f'fill="#{foreground:06x}"{weight}>{escape(words[0])}</text>'
        return found


class Camera:
    """Takes frames of an editor's screen."""

    def __init__(self, editor: Editor, background: str = "dark") -> None:
        self.editor, self.screen = editor, Screen()
        self.frames: list[tuple[str, int]] = []
        editor.nvim.command("filetype plugin off | filetype indent off")
        editor.nvim.ui_detach()
        editor.nvim.ui_attach(WIDTH, HEIGHT, rgb=True, ext_linegrid=True)
        editor.nvim.command(
            "set laststatus=2 noshowcmd noruler shortmess+=F nowrap termguicolors smartindent shiftwidth=2 expandtab"
        )
        editor.nvim.command(f"set background={background}")
        editor.nvim.command("set statusline=%t%=%{v:lua.require'dgemma'.statusline()}")

    def look(self, ms: int) -> None:
        """Take a frame that is shown for so long."""
        self.editor.nvim.command(f"redraw | call rpcnotify({self.editor.nvim.channel_id}, 'drawn')")
        self._take_what_was_drawn()
        frame = self.screen.svg()
        if self.frames and self.frames[-1][0] == frame:
            self.frames[-1] = frame, self.frames[-1][1] + ms
        else:
            self.frames.append((frame, ms))

    def _take_what_was_drawn(self) -> None:
        while (message := self.editor.nvim.next_message())[1] != "drawn":
            if message[1] == "redraw":
                self.screen.take(message[2])

    def keys(self, keys: str) -> None:
        """Type keys in one go, and return when Neovim has taken the last."""
        self.editor.nvim.input(f"{keys}<Cmd>call rpcnotify({self.editor.nvim.channel_id}, 'drawn')<CR>")
        self._take_what_was_drawn()

    def type(self, text: str) -> None:
        """Type, a frame for each key."""
        for key in text:
            self.editor.type(key)
            self.look(KEY_MS)

    def press(self, keys: str, ms: int) -> None:
        self.keys(keys)
        self.look(ms)

    def save(self, path: Path) -> None:
        """Write the frames as one picture, which moves where there are several."""
        width, height = WIDTH * CELL + 2 * MARGIN, HEIGHT * ROW + 2 * MARGIN
        drawn = "".join(_shown(self.frames))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" width="{width:.0f}" '
            f'style="{STYLE}"><rect width="100%" height="100%" rx="6" fill="#{self.screen.colours[1]:06x}"/>'
            f"{drawn}</svg>\n",
            "utf-8",
        )
        print(f"{path.relative_to(ROOT)}: {len(self.frames)} frames, {path.stat().st_size / 1000:.0f} kB")


def _shown(frames: list[tuple[str, int]]) -> Iterator[str]:
    whole, begins = sum(ms for _, ms in frames), 0
    for number, (frame, ms) in enumerate(frames):
        times = f"0;{begins / whole:.5f};{(begins + ms) / whole:.5f}"
        values = "none;inline;none" if number else "inline;inline;none"
        animated = f'dur="{whole}ms" repeatCount="indefinite" calcMode="discrete" keyTimes="{times}" values="{values}"'
        yield f'<g display="none">{frame}<animate attributeName="display" {animated}/></g>'
        begins += ms


def open_ready(editor: Editor, text: str, name: str) -> None:
    """Open a file, and wait for the model."""
    editor.open(text, name)
    editor.wait(lambda: editor.lua("return require('dgemma').statusline()") == "dgemma: ready", "it is ready")


def suggestions(camera: Camera, theme: str) -> None:
    """Typing, ghost text, acceptance of all of it and word by word."""
    editor = camera.editor
    open_ready(editor, BASKET, "basket.ts")
    camera.keys("Gk")
    camera.look(600)
    for header, suggestion, words in (
        ("total(): number {", "return this.items.reduce((total, item) => total + item.price, 0);", 0),
        ("find(name: string): Item | undefined {", "return this.items.find(item => item.name === name);", 3),
    ):
        camera.keys("o<CR>")
        camera.type(header)
        camera.keys("<CR>}<Esc>O")
        editor.wait_ghost(suggestion)
        camera.look(LOOK_MS)
        for _ in range(words):
            camera.press("<M-Right>", 600)
        camera.press("<Tab>", 1200)
        camera.keys("<Esc>j")
    camera.look(LOOK_MS)
    camera.save(IMAGES / f"typing-{theme}.svg")


def next_edits(camera: Camera, theme: str) -> None:
    """A rename that is followed."""
    editor = camera.editor
    open_ready(editor, RENAMED, "area.py")
    camera.look(800)
    camera.keys("fwcw")
    camera.type("side")
    camera.keys("<Esc>")
    marks = "return #vim.api.nvim_buf_get_extmarks(0, vim.api.nvim_get_namespaces().dgemma_next_edit, 0, -1, {})"
    for _ in range(2):
        editor.wait(lambda: editor.lua(marks), "the next edit is shown")
        camera.look(LOOK_MS)
        camera.press("<M-CR>", 900)
        camera.press("<M-CR>", 500)
    camera.look(LOOK_MS)
    camera.save(IMAGES / f"next-edit-{theme}.svg")


def main() -> None:
    """Both, light and dark, in the newest Neovim at hand."""
    for theme, film in product(("dark", "light"), (suggestions, next_edits)):
        editor = Editor(neovims()[-1], Path(tempfile.mkdtemp(prefix="pictures")))
        editor.nvim.command("filetype on | filetype indent off")
        server = ["env", f"DGEMMA_CHECKPOINTS={USERS_STORE}", *REAL]
        editor.set_up(server, settings={"next_edit": True, "debounce_ms": 0, "time_budget_ms": 10000})
        film(Camera(editor, theme), theme)
        editor.close()


if __name__ == "__main__":
    main()
