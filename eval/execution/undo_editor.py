"""A text buffer that can undo."""


class Buffer:
    """Text with a history of its earlier states."""

    def __init__(self, text: str = "") -> None:
        self.text = text
        self._past: list[str] = []
        self._future: list[str] = []

    def _remember(self) -> None:
        self._past.append(self.text)
        self._future.clear()  # hole

    def insert(self, position: int, addition: str) -> None:
        """Put text at a position."""
        self._remember()
        self.text = self.text[:position] + addition + self.text[position:]  # hole

    def delete(self, start: int, end: int) -> None:
        """Remove the characters from start up to end."""
        self._remember()
        self.text = self.text[:start] + self.text[end:]

    def undo(self) -> bool:
        """Go back by one change, if there is one."""
        if not self._past:
            return False
        self._future.append(self.text)
        self.text = self._past.pop()  # hole
        return True

    def redo(self) -> bool:
        """Take an undo back, if there is one."""
        if not self._future:  # hole: 5 lines
            return False
        self._past.append(self.text)
        self.text = self._future.pop()
        return True


# ---- tests
buffer = Buffer("hello")
assert not buffer.undo() and not buffer.redo()
buffer.insert(5, " world")
buffer.delete(0, 1)
assert buffer.text == "ello world"
assert buffer.undo() and buffer.text == "hello world"
assert buffer.redo() and buffer.text == "ello world"
assert buffer.undo() and buffer.undo() and buffer.text == "hello"
assert buffer.redo() and buffer.text == "hello world"
buffer.insert(0, ">")
assert not buffer.redo() and buffer.text == ">hello world"
