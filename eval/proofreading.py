"""Whether the network can proofread: bugs are planted into functions of the held-out sources, every word is judged.

    python eval/proofreading.py [--functions 300] [--seed 0] [--checkpoint DIRECTORY] [--set fresh]

One bug is planted into each function of a held-out set that parses on its own: a name swapped for another one of the
function, a number off by one, a comparison made strict or not, another operator, `self.` left out. Then scores are
taken of each word, number and operator of the function, in nats:

- `causal`: how much likelier than it the network finds another token there, reading from left to right;
- `rewritten`: how much likelier the whole function becomes with another word in its place, one that occurs in the
  function or near it.

Of checkpoints that denoise, also:

- `noiseless`: the same in one pass of the denoiser over the text as it is, which sees both sides;
- `both`: the smaller of the two;
- `masked`: as `noiseless`, with the word hidden from the denoiser, one pass for each word;
- `causal and masked`: the smaller of these two.

Of the word with the highest `rewritten` in each function, which is what the server replaces when it is asked to look
for one, at several thresholds: how often it is told, how often it is the bug, how often its other word is what was
there, and in how many of the functions something is told when no bug is planted.

Printed for each score: the best threshold at which at least 80 % of what is above it is a planted bug, and the share of
bugs that is found there; and what the top of the list holds, for there may be no such threshold.
"""

from __future__ import annotations

import argparse
import builtins
import itertools
import json
import keyword
import math
import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch

from dgemma_lsp.pipeline.proofreading import Word, doubts, words
from dgemma_model.decoding.causal import next_token_logits
from dgemma_model.decoding.denoised import disagreement
from dgemma_model.evaluation.held_out import CLASSIC, SETS, read_holes
from dgemma_model.infill import Infiller
from dgemma_model.request import DOUBT_NATS, Doubt, Excerpt

WANTED_PRECISION = 0.8
FEWEST = 5
"""A threshold above which there are fewer tokens says nothing."""
OTHER = {
    **{"+": "-", "-": "+", "*": "+", "/": "*", "//": "/", "+=": "-=", "-=": "+="},
    **{"==": "!=", "!=": "==", "<": "<=", "<=": "<", ">": ">=", ">=": ">"},
    **{"and": "or", "or": "and", "in": "not in", "is": "is not"},
}
SCORES = ("causal", "rewritten")
THRESHOLDS = (5.0, 7.0, 9.0, DOUBT_NATS)
CANVAS_SCORES = ("noiseless", "both", "masked", "causal and masked")
"""Of checkpoints that denoise."""


class Function(NamedTuple):
    """A function, from the beginning of its first line, and the text around it."""

    before: str
    text: str
    after: str


class Bug(NamedTuple):
    """`text[start:end]` becomes `instead`."""

    kind: str
    start: int
    end: int
    instead: str


def functions(held_out: str) -> Iterator[Function]:
    """The functions of the held-out sources, each once, of 4 to 40 lines and plain characters."""
    seen: set[str] = set()
    for hole in read_holes(SETS[held_out].holes):
        if hole.language != "python":
            continue
        source = hole.prefix + hole.middle + hole.suffix
        lines = source.splitlines(keepends=True)
        starts = [0, *itertools.accumulate(map(len, lines))]
        for first, line in enumerate(lines):
            if not line.lstrip().startswith("def "):
                continue
            indent = len(line) - len(line.lstrip())
            deeper = (not below.strip() or below.startswith(" " * (indent + 1)) for below in lines[first + 1 :])
            last = first + 1 + sum(itertools.takewhile(bool, deeper))
            text = "".join(lines[first:last]).rstrip() + "\n"
            if last == len(lines) or text in seen or not text.isascii() or not 4 <= text.count("\n") <= 40:
                continue
            if words(text):
                seen.add(text)
                yield Function(source[: starts[first]], text, source[starts[first] + len(text) :])


def bugs(text: str, chance: random.Random) -> Iterator[Bug]:
    """Bugs that could be planted, in no order."""
    candidates = words(text)
    names = sorted({word.text for word in candidates if word.text.isidentifier() and not keyword.iskeyword(word.text)})
    names = [name for name in names if name not in dir(builtins) and name != "self"]
    for word in chance.sample(candidates, len(candidates)):
        is_attribute = text[: word.start].endswith(".")
        others = [name for name in names if name != word.text]
        if word.text in OTHER:
            kind = "comparison" if word.text.startswith(("<", ">")) else "operator"
            yield Bug(kind, word.start, word.end, OTHER[word.text])
        elif word.text.isdigit():
            yield Bug("off by one", word.start, word.end, str(int(word.text) + 1))
        elif word.text == "self" and text[word.end : word.end + 1] == ".":
            yield Bug("no self", word.start, word.end + 1, "")
        elif word.text in names and not is_attribute and others:
            yield Bug("swapped name", word.start, word.end, chance.choice(others))


def planted(function: Function, chance: random.Random) -> tuple[Function, Bug, tuple[int, int]] | None:
    """The function with one bug in it that parses still, and where the bug is then. Every kind is as likely."""
    by_kind: dict[str, Bug] = {}
    for bug in bugs(function.text, chance):
        by_kind.setdefault(bug.kind, bug)
    for kind in chance.sample(sorted(by_kind), len(by_kind)):
        bug = by_kind[kind]
        text = function.text[: bug.start] + bug.instead + function.text[bug.end :]
        if words(text):
            length = len(bug.instead) or len(re.match(r"\w*", text[bug.start :])[0])  # type: ignore[index]
            return function._replace(text=text), bug, (bug.start, bug.start + length)
    return None


def judged(infiller: Infiller, function: Function, doubted: Sequence[Doubt]) -> dict[str, dict[int, float]]:
    """Of each word, by its start: each score, in nats. `doubted` are all words that another is likelier than."""
    scores: dict[str, dict[int, float]] = {score: {} for score in scores_of(infiller)}
    scores["rewritten"] = dict.fromkeys((word.start for word in words(function.text)), -math.inf)
    scores["rewritten"] |= {doubt.start: doubt.nats for doubt in doubted}
    tokenizer, width = infiller._tokenizer, max(infiller._policy.canvas_lengths)
    done = 0
    for piece in pieces(infiller, function.text, width):
        before, after = function.before + function.text[:done], function.text[done + len(piece) :] + function.after
        # as `excerpt.cut` would have it, roughly
        with infiller._prompted(Excerpt(before[-1280:], after[:320])) as opened, torch.inference_mode():
            cached, prompt = opened.cached, opened.prompt
            given = prompt.forced.decode()
            ids = tokenizer.encode(given + piece)[:width]
            ends = [0]
            for token in ids:
                ends.append(ends[-1] + len(tokenizer.token_bytes[token]))
            logits, _ = next_token_logits(cached, prompt.ids, [ids])
            own = torch.tensor(ids)[:, None]
            causal = (logits[:-1].max(-1).values - logits[:-1].gather(-1, own)[:, 0]).tolist()
            places: list[tuple[int, list[int]]] = []
            for word in words_within(function.text, done, done + len(piece)):
                first, last = word.start - done + len(given), word.end - done + len(given)
                tokens = [at for at in range(len(ids)) if ends[at] < last and ends[at + 1] > first]
                if tokens:
                    places.append((word.start, tokens))
                    scores["causal"][word.start] = max(causal[at] for at in tokens)
            if places and infiller._policy.denoises:
                canvas = torch.tensor([ids + [tokenizer.end_id] * (width - len(ids))])
                noiseless = disagreement(infiller._checkpoint, cached, canvas)[0][0].tolist()
                hidden = canvas.repeat(len(places), 1)
                for row, (_, tokens) in enumerate(places):
                    hidden[row, tokens] = tokenizer.mask_id
                seen = infiller._checkpoint.network.decode(hidden, cached.cache.repeated(len(places), len(prompt.ids)))
            for row, (start, tokens) in enumerate(places if infiller._policy.denoises else ()):
                guessed = infiller._checkpoint.network.logits(seen[row, tokens])
                said = guessed.gather(-1, own[tokens])[:, 0]
                scores["noiseless"][start] = max(noiseless[at] for at in tokens)
                scores["both"][start] = min(scores["causal"][start], scores["noiseless"][start])
                scores["masked"][start] = float((guessed.max(-1).values - said).max())
                scores["causal and masked"][start] = min(scores["causal"][start], scores["masked"][start])
        done += len(piece)
    return scores


def scores_of(infiller: Infiller) -> tuple[str, ...]:
    """The scores that a checkpoint has."""
    return SCORES + (CANVAS_SCORES if infiller._policy.denoises else ())


def words_within(text: str, start: int, end: int) -> Iterator[Word]:
    """The words of a function that lie in a part of it."""
    return (word for word in words(text) if start <= word.start and word.end <= end)


def pieces(infiller: Infiller, text: str, width: int) -> Iterator[str]:
    """Whole lines, as many as fit into a canvas with room for what is healed."""
    piece = ""
    for line in text.splitlines(keepends=True):
        if piece and infiller.count_tokens(piece + line) > width - 8:
            yield piece
            piece = ""
        piece += line
    yield piece


def all_doubts(infiller: Infiller, function: Function) -> list[Doubt]:
    """The words that another is likelier than, however little."""
    return [doubt for some in doubts(*function, infiller, min_nats=-math.inf) for doubt in some]


def summary(found: Sequence[tuple[float, bool, str]], planted_count: int) -> dict[str, object]:
    """Precision and recall from the top of a list of (score, whether it is a bug, its kind)."""
    ranked = sorted(found, key=lambda one: -one[0])
    right, best, precisions = 0, None, {}
    for count, (score, is_bug, _) in enumerate(ranked, 1):
        right += is_bug
        if count in (10, 20, 50, 100, 200):
            precisions[count] = round(right / count, 2)
        if right / count >= WANTED_PRECISION and count >= FEWEST:
            best = {"threshold": round(score, 2), "told": count, "found": round(right / planted_count, 3)}
    kinds: dict[str, list[float]] = {}
    clean = sorted(score for score, is_bug, _ in found if not is_bug)
    for score, is_bug, kind in found:
        if is_bug:
            kinds.setdefault(kind, []).append(sum(score > other for other in clean) / len(clean))
    auc = {kind: round(sum(ranks) / len(ranks), 3) for kind, ranks in sorted(kinds.items())}
    return {"at 80 %": best, "precision of the first": precisions, "bug above a clean token": auc}


def main() -> None:
    """Run with the arguments of the command line; the last line is one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--functions", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint", help="a checkpoint's directory; by default the embedded one")
    parser.add_argument("--set", default=CLASSIC, choices=SETS)
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    everything = list(functions(arguments.set))
    chosen = chance.sample(everything, min(arguments.functions, len(everything)))
    infiller = Infiller.load(arguments.checkpoint, "cpu")
    found: dict[str, list[tuple[float, bool, str]]] = {score: [] for score in scores_of(infiller)}
    count, told = 0, {least: Counter[str]() for least in THRESHOLDS}
    for function in chosen:
        made = planted(function, chance)
        if made is None:
            continue
        count += 1
        with_bug, bug, (start, end) = made
        doubted = all_doubts(infiller, with_bug)
        said = max(doubted, key=lambda doubt: doubt.nats, default=None)
        sound = max((doubt.nats for doubt in all_doubts(infiller, function)), default=-math.inf)
        for least, counter in told.items():
            counter["of sound functions"] += sound >= least
            if said is not None and said.nats >= least:
                mended = with_bug.text[: said.start] + said.instead + with_bug.text[said.end :] == function.text
                counter.update(told=1, right=start <= said.start < end, mended=mended)
        for score, values in judged(infiller, with_bug, doubted).items():
            found[score] += ((value, start <= at < end, bug.kind) for at, value in values.items())
    tokens = len(found["causal"])
    print(f"{len(everything)} functions, {count} with a bug, {tokens} words judged")
    report = {score: summary(values, count) for score, values in found.items()}
    for score, said in report.items():
        print(score, json.dumps(said))
    for least, counter in told.items():
        print(f"the worst word from {least} nats on", json.dumps(counter))
    print(json.dumps({"functions": count, "words": tokens, **report, "told": told}))


if __name__ == "__main__":
    main()
