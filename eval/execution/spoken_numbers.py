"""Numbers and times as people write them."""

UNITS = (("day", 86_400), ("hour", 3_600), ("minute", 60), ("second", 1))
SIZES = ("B", "kB", "MB", "GB", "TB")


def duration(seconds: int) -> str:
    """The two largest units that are not zero: ``1 hour 5 minutes``."""
    parts: list[str] = []
    for name, length in UNITS:
        number, seconds = divmod(seconds, length)  # hole
        if number:
            parts.append(f"{number} {name}" + ("s" if number > 1 else ""))  # hole
    return " ".join(parts[:2]) or "0 seconds"


def parse_duration(text: str) -> int:
    """Seconds of a text such as ``2h30m`` or ``45s``; raises `ValueError` for anything else."""
    seconds = 0
    digits = ""
    for letter in text:
        if letter.isdigit():
            digits += letter
            continue
        lengths = [length for name, length in UNITS if name[0] == letter]
        if not digits or not lengths:  # hole: 4 lines
            raise ValueError(f"no duration: {text!r}")
        seconds += int(digits) * lengths[0]
        digits = ""
    if digits or not text:
        raise ValueError(f"no duration: {text!r}")
    return seconds


def file_size(size: float) -> str:
    """A number of bytes with a unit, one decimal above bytes."""
    for unit in SIZES:
        if size < 1000 or unit == SIZES[-1]:
            break
        size /= 1000  # hole
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"


def ordinal(number: int) -> str:
    """1st, 2nd, 3rd, 4th, 11th, 21st."""
    if 10 <= number % 100 <= 20:
        return f"{number}th"  # hole
    return f"{number}" + {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")


# ---- tests
assert duration(3_900) == "1 hour 5 minutes"
assert duration(2 * 86_400 + 61) == "2 days 1 minute"
assert duration(0) == "0 seconds"
assert parse_duration("2h30m") == 9_000 and parse_duration("1d5s") == 86_405
for wrong in ("", "5", "h", "3x", "1h2"):
    try:
        parse_duration(wrong)
    except ValueError:
        pass
    else:
        raise AssertionError(wrong)
assert file_size(999) == "999 B" and file_size(1_500_000) == "1.5 MB" and file_size(2e16) == "20000.0 TB"
assert " ".join(map(ordinal, (1, 2, 3, 4, 11, 13, 21, 111, 102))) == "1st 2nd 3rd 4th 11th 13th 21st 111th 102nd"
