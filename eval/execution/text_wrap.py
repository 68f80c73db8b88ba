"""Laying text out in columns of a fixed width, for terminals without a library."""


def wrap(text: str, width: int) -> list[str]:
    """Break text at blanks into lines of at most `width` characters; longer words stand alone."""
    lines: list[str] = []
    current = ""
    for word in text.split():
        if current and len(current) + 1 + len(word) > width:  # hole: 3 lines
            lines.append(current)
            current = word
        else:
            current = f"{current} {word}".lstrip()
    if current:
        lines.append(current)  # hole
    return lines


def justify(line: str, width: int) -> str:
    """Spread the words of a line over `width` columns; the left gaps take what does not divide evenly."""
    words = line.split()
    if len(words) < 2:
        return line
    gaps = len(words) - 1
    blanks = width - sum(map(len, words))
    narrow, extra = divmod(blanks, gaps)  # hole
    pieces = [word + " " * (narrow + (place < extra)) for place, word in enumerate(words[:-1])]
    return "".join([*pieces, words[-1]])


def centre(line: str, width: int, fill: str = " ") -> str:
    """Put a line in the middle; an odd column goes to the right."""
    left = (width - len(line)) // 2
    right = width - len(line) - left
    return fill * left + line + fill * right  # hole


# ---- tests
assert wrap("one two three four", 9) == ["one two", "three", "four"]
assert wrap("a extraordinarily b", 5) == ["a", "extraordinarily", "b"]
assert wrap("", 5) == []
assert wrap("x", 5) == ["x"]
assert justify("a bb c", 9) == "a   bb  c"
assert justify("word", 9) == "word"
assert justify("p q", 4) == "p  q"
assert centre("abc", 6, ".") == ".abc.."
