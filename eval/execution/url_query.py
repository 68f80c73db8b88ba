"""Query strings of web addresses."""

HEX = "0123456789ABCDEF"
SAFE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.~")


def escape(text: str) -> str:
    """Everything but letters, digits and ``-_.~`` as percent codes of its UTF-8 bytes; blanks as ``+``."""
    pieces = []
    for letter in text:
        if letter in SAFE:
            pieces.append(letter)
        elif letter == " ":
            pieces.append("+")  # hole
        else:
            pieces.extend(f"%{HEX[byte >> 4]}{HEX[byte & 15]}" for byte in letter.encode("utf-8"))
    return "".join(pieces)


def unescape(code: str) -> str:
    """What `escape` was given."""
    data = bytearray()
    place = 0
    while place < len(code):
        if code[place] == "%":
            data.append(int(code[place + 1 : place + 3], 16))  # hole: 2 lines
            place += 3
        else:
            data += b" " if code[place] == "+" else code[place].encode("utf-8")
            place += 1
    return data.decode("utf-8")


def build(fields: dict[str, object]) -> str:
    """A query of all fields that have a value; a list stands for its key several times."""
    parts = []
    for key, value in fields.items():
        if value is None:
            continue  # hole
        values = value if isinstance(value, list) else [value]
        parts += [f"{escape(key)}={escape(str(each))}" for each in values]  # hole
    return "&".join(parts)


def parse(query: str) -> dict[str, list[str]]:
    """Every key with its values in order."""
    fields: dict[str, list[str]] = {}
    for part in query.lstrip("?").split("&"):
        if part:
            key, _, value = part.partition("=")  # hole: 2 lines
            fields.setdefault(unescape(key), []).append(unescape(value))
    return fields


# ---- tests
assert escape("a b&c~é") == "a+b%26c~%C3%A9"
assert unescape("a+b%26c~%C3%A9") == "a b&c~é"
assert build({"q": "x y", "page": 2, "sort": None, "tag": ["a", "b&"]}) == "q=x+y&page=2&tag=a&tag=b%26"
assert parse("?q=x+y&tag=a&tag=b%26&flag&") == {"q": ["x y"], "tag": ["a", "b&"], "flag": [""]}
assert parse("") == {}
