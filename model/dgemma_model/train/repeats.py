"""How often fills repeat training text word for word.

    python -m dgemma_model.train.repeats --data .train

fills held-out holes as the checkpoint ships. For each fill it looks up the longest run of tokens that is in the
training text, too: of all runs, and of those that are not in the prompt. The authors' own text is looked up the same
way, because all code repeats itself.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import track

from dgemma_model.checkpoint.selection import find
from dgemma_model.evaluation.held_out import HOLES_FILE, read_holes
from dgemma_model.infill import Infiller
from dgemma_model.prompt.tokenizer import Tokenizer
from dgemma_model.request import FillRequest
from dgemma_model.train.losses import excerpt_of

KINDS = ("line", "rest_of_line", "statement", "block")
LONG = 10
"""A run of so many tokens is a copy rather than an idiom."""
SHOWN = 5
_BORDER = "\0"
"""Between files: no token's sign, as no text has the token 0, which pads."""


@dataclass(frozen=True, slots=True)
class Repeat:
    """The longest run of tokens of one text that the training text has, too."""

    tokens: int
    """How many tokens the text has."""
    run: str
    run_tokens: int
    unprompted: str
    """The longest run that is not in the prompt."""
    unprompted_tokens: int


class TrainingText:
    """The corpus as one string with a character for each token, in which Python searches fast."""

    def __init__(self, texts: Sequence[str], tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._signs = _BORDER.join(_signs(ids) for ids in tokenizer.encode_batch(list(texts)))

    def repeat(self, text: str, prompt: str) -> Repeat:
        """The longest run of `text` in the corpus."""
        signs = _signs(self._tokenizer.encode(text))
        runs = sorted(self._runs(signs), key=len, reverse=True)
        longest = runs[0] if runs else ""
        unprompted = next((run for run in runs if self._text(run) not in prompt), "")
        return Repeat(len(signs), self._text(longest), len(longest), self._text(unprompted), len(unprompted))

    def _text(self, signs: str) -> str:
        return self._tokenizer.decode([*map(ord, signs)])

    def _runs(self, signs: str) -> Iterator[str]:
        """From each token on, the longest run that is in the corpus; it ends no earlier than the one before."""
        end = 0
        for start in range(len(signs)):
            end = max(end, start)
            while end < len(signs) and signs[start : end + 1] in self._signs:
                end += 1
            yield signs[start:end]


def _signs(ids: Sequence[int]) -> str:
    return "".join(map(chr, ids))


def summary(found: Sequence[Repeat]) -> str:
    """The figures, in a line."""
    runs = sorted(repeat.run_tokens for repeat in found)
    copied = sum(repeat.run_tokens >= LONG for repeat in found) / len(found)
    unprompted = sum(repeat.unprompted_tokens >= LONG for repeat in found) / len(found)
    long = [repeat for repeat in found if repeat.tokens >= LONG]
    whole = sum(repeat.run_tokens == repeat.tokens for repeat in long)
    return (
        f"{len(found)} texts; longest run in training text: median {statistics.median(runs):g} tokens, 95 % "
        f"{runs[int(0.95 * len(runs))]}, longest {runs[-1]}; at least {LONG} tokens in "
        f"{100 * copied:.1f} %, not counting what the prompt holds in {100 * unprompted:.1f} %; "
        f"of {len(long)} texts of {LONG} tokens and more, {whole} are in it as a whole"
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(".train"), help="where the corpus is")
    parser.add_argument("--holes", type=Path, default=HOLES_FILE)
    parser.add_argument("--checkpoint", default=None)
    parser.add_argument("--device", default=None)
    parser.add_argument("--sample", type=int, default=300, help="only so many holes, drawn at random")
    args = parser.parse_args()
    holes = [hole for hole in read_holes(args.holes) if hole.kind in KINDS]
    holes = random.Random(0).sample(holes, min(args.sample, len(holes)))
    tokenizer = Tokenizer.read(find(args.checkpoint) / "tokenizer.json")
    with (args.data / "corpus.jsonl").open(encoding="utf-8") as lines:
        corpus = TrainingText([json.loads(line)["text"] for line in lines], tokenizer)
    infiller = Infiller.load(args.checkpoint, args.device)
    fills: list[Repeat] = []
    authors: list[Repeat] = []
    for hole in track(holes, description="filling", console=Console(stderr=True)):
        excerpt = excerpt_of(hole)
        *_, draft = infiller.fill(FillRequest(excerpt, one_line=hole.kind in ("line", "rest_of_line"), max_tokens=160))
        prompt = excerpt.suffix + "\n" + excerpt.prefix
        fills.append(corpus.repeat(draft.text, prompt))
        authors.append(corpus.repeat(hole.middle, prompt))
    print(f"Fills: {summary(fills)}.")
    print(f"What was there: {summary(authors)}.")
    for repeat in sorted(fills, key=lambda repeat: -repeat.unprompted_tokens)[:SHOWN]:
        print(f"{repeat.unprompted_tokens} tokens: {repeat.unprompted!r}")


if __name__ == "__main__":
    main()
