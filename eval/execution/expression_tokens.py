"""A calculator for sums, products and brackets."""

import re

TOKEN = re.compile(r"\s*(\d+(?:\.\d+)?|[-+*/()])")


def tokenize(text: str) -> list[str]:
    """Numbers, operators and brackets in order."""
    tokens = []
    place = 0
    text = text.rstrip()
    while place < len(text):
        match = TOKEN.match(text, place)
        if match is None:
            raise SyntaxError(f"unexpected character at {place}")  # hole
        tokens.append(match[1])
        place = match.end()  # hole
    return tokens


class Calculator:
    """Recursive descent: a sum of products of factors."""

    def __init__(self, text: str) -> None:
        self.tokens = tokenize(text)

    def evaluate(self) -> float:
        """The value of the whole text."""
        value = self._sum()
        if self.tokens:
            raise SyntaxError(f"unexpected {self.tokens[0]!r}")
        return value

    def _next_is(self, operators: str) -> bool:
        return bool(self.tokens) and self.tokens[0] in operators

    def _sum(self) -> float:
        value = self._product()
        while self._next_is("+-"):
            if self.tokens.pop(0) == "+":  # hole: 4 lines
                value += self._product()
            else:
                value -= self._product()
        return value

    def _product(self) -> float:
        value = self._factor()
        while self._next_is("*/"):
            if self.tokens.pop(0) == "*":
                value *= self._factor()
            else:
                value /= self._factor()  # hole
        return value

    def _factor(self) -> float:
        if self._next_is("-"):
            self.tokens.pop(0)
            return -self._factor()  # hole
        if self._next_is("("):
            self.tokens.pop(0)  # hole: 5 lines
            value = self._sum()
            if not self._next_is(")"):
                raise SyntaxError("bracket is not closed")
            self.tokens.pop(0)
            return value
        if not self.tokens:
            raise SyntaxError("unexpected end")
        return float(self.tokens.pop(0))


# ---- tests
assert tokenize(" 1+2.5 *(3)") == ["1", "+", "2.5", "*", "(", "3", ")"]
assert Calculator("1 + 2 * 3 - 4").evaluate() == 3
assert Calculator("8 / 2 / 2").evaluate() == 2
assert Calculator("-(1 + 2) * 2").evaluate() == -6
assert Calculator("((4))").evaluate() == 4
try:
    tokenize("1 + $")
except SyntaxError:
    pass
else:
    raise AssertionError("no error")
for wrong in ("(1 + 2", "1 2", "2 +"):
    try:
        Calculator(wrong).evaluate()
    except SyntaxError:
        pass
    else:
        raise AssertionError(wrong)
