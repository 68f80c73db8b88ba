"""What a drafter learns from: the writer reads code once, and what it computes is kept on disk.

    python -m dgemma_model.train.corpus .train
    python -m dgemma_model.train.drafter.read STATES --data .train [--folder SOURCES] --seconds 3600

Each text is a prompt as it is served, with the true middle after it. Of every token these are kept: the writer's choice
of the next one, its keys and values in a few layers, and its states before a few others. `STATES` is a folder outside
the repository, 8 KB a token. Interrupt it at any time: it goes on where it was stopped. Further sources are what
`python eval/fetch_fresh.py get MANIFEST SOURCES` gets: `eval/fresh/fitting_packages.json` lists packages in Python, and
`eval/fresh/drafter_packages.json` in other languages.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from dgemma_model.checkpoint import load as checkpoints
from dgemma_model.checkpoint import selection
from dgemma_model.checkpoint.contract import Checkpoint
from dgemma_model.network.cache import Cache
from dgemma_model.network.int8 import SERVED_DIGITS, Int8Product
from dgemma_model.network.kernels import fastest_products
from dgemma_model.network.packed import packed
from dgemma_model.network.qwen2_served import ServedQwen2
from dgemma_model.prompt.tokenizer import Tokenizer
from dgemma_model.request import Excerpt
from dgemma_model.train.corpus import is_usable

TOKENS = 512
"""Of a text, at most; shorter ones are filled up."""
TEXTS = 32
"""In a file."""
MIDDLE_LINES = (1, 14)
"""Lines of a middle, at least and at most."""
FEWEST_LINES = 50
"""Of a file."""
KEYS_AT = (1 / 3, 7 / 12, 3 / 4, 11 / 12)
"""Of which of the writer's layers keys and values are kept: shares of its depth."""
STATES_AT = (1 / 2, 3 / 4)
"""Before which layers the residual stream is kept, likewise; the last hidden state comes after them."""
VOCABULARY = 16_384
"""Tokens that a drafter may propose: those that the texts have most often."""
COUNTED_CHARS = 12_000_000
HELD_OUT_SHARE = 40
"""One of so many texts is left for validation."""
SOURCES = {".py", ".js", ".mjs", ".ts", ".tsx", ".go", ".rs", ".java", ".rb", ".php", ".lua", ".cs", ".cpp", ".c"}


def layers_at(shares: Sequence[float], layers: int) -> tuple[int, ...]:
    """The layers at these shares of the depth."""
    return tuple(int(share * layers + 1e-6) for share in shares)


def texts_of(data: Path, folders: Sequence[Path], left_out: Sequence[str]) -> list[str]:
    """The files of a corpus, and the usable sources below further folders; files of folders named in `left_out` not."""
    with (data / "corpus.jsonl").open() as lines:
        found = [file["text"] for file in map(json.loads, lines) if file["package"] not in left_out]
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.suffix in SOURCES and not set(path.parts) & set(left_out) and path.is_file():
                text = path.read_text("utf-8", "ignore")
                if is_usable(text):
                    found.append(text)
    return found


def count_tokens(folder: Path, texts: Sequence[str], tokenizer: Tokenizer) -> None:
    """Write the ids that the texts have most often, `vocabulary.json`, in order; and how often each follows each,
    `pairs.safetensors`: rows [P, 2] of indices in the vocabulary, and counts [P]. Texts are drawn."""
    counted, chars, rng = list[list[int]](), 0, random.Random(0)
    while chars < COUNTED_CHARS:
        text = rng.choice(texts)[:20_000]
        counted.append(tokenizer.encode(text))
        chars += len(text)
    often = Counter(itertools.chain.from_iterable(counted)).most_common(VOCABULARY)
    vocabulary = sorted(token for token, _ in often)
    index = {token: number for number, token in enumerate(vocabulary)}
    pairs = Counter[tuple[int, int]]()
    for ids in counted:
        pairs.update((index[a], index[b]) for a, b in itertools.pairwise(ids) if a in index and b in index)
    rows = {"rows": torch.tensor(list(pairs), dtype=torch.int32), "counts": torch.tensor(list(pairs.values()))}
    save_file(rows, folder / "pairs.safetensors")
    (folder / "vocabulary.json").write_text(json.dumps(vocabulary))


class Prompts:
    """Draws what is read from sources: prompts as they are served, and the true middles after them."""

    def __init__(self, texts: Sequence[str], checkpoint: Checkpoint) -> None:
        """One text of `HELD_OUT_SHARE` is left for validation: the first ones."""
        held_out = max(1, len(texts) // HELD_OUT_SHARE)
        self._held_out, self._trained = texts[:held_out], texts[held_out:]
        self._format, self._tokenizer = checkpoint.format, checkpoint.tokenizer

    def of_file(self, number: int) -> Iterator[tuple[list[int], int]]:
        """The `TEXTS` of a file, the same ones every time: the ids of each, and how many are the prompt's."""
        rng, found = random.Random(number), 0
        texts = self._held_out if number % HELD_OUT_SHARE == 0 else self._trained
        while found < TEXTS:
            drawn = self._drawn(rng.choice(texts), rng)
            if drawn is not None:
                found += 1
                yield drawn

    def _drawn(self, text: str, rng: random.Random) -> tuple[list[int], int] | None:
        """The ids of a prompt cut from `text` and of its middle, and how many are the prompt's."""
        lines = text.splitlines(keepends=True)
        if len(lines) < FEWEST_LINES:
            return None
        count = min(rng.randint(*MIDDLE_LINES), len(lines) // 2)
        first = rng.randrange(len(lines) - count)
        start = sum(map(len, lines[:first]))
        end = start + len("".join(lines[first : first + count]).rstrip("\n"))
        line = lines[first].rstrip("\n")
        start += rng.randint(0, len(line)) if rng.random() < 0.5 else len(line) - len(line.lstrip())
        if end <= start:
            return None
        room = TOKENS - len(self._tokenizer.encode(text[start:end])) - 4  # some of what is typed is healed
        excerpt = Excerpt(text[max(0, start - 4000) : start], text[end : end + 2000])
        prompt = self._format.encode(excerpt, max(64, room))
        ids = [*prompt.ids, *self._tokenizer.encode(prompt.forced.decode("utf-8", "replace") + text[start:end])]
        return ids[:TOKENS], len(prompt.ids)


class WriterReader:
    """Reads texts with the writer."""

    def __init__(self, checkpoint: Checkpoint, vocabulary: Sequence[int]) -> None:
        network = checkpoint.served(fastest_products(torch.device("cpu"))).network
        assert isinstance(network, ServedQwen2), "drafters are made for networks that keep their states"
        layers = network.config.num_hidden_layers
        self._keys_of = layers_at(KEYS_AT, layers)
        self._network = network.keeping_states(layers_at(STATES_AT, layers))
        ids = torch.tensor(vocabulary)
        weight, scale = network.head_rows(ids)
        self._head = Int8Product(packed(weight), scale, digits=SERVED_DIGITS)
        self._ids = ids

    @torch.inference_mode()
    def read(self, ids: Sequence[int]) -> dict[str, Tensor]:
        """What the writer computes of one text, filled up to `TOKENS`."""
        cache = Cache()
        hidden = self._network.encode(torch.tensor([ids]), cache)[0]
        said = self._ids[self._head(hidden).argmax(-1)]
        assert cache.states is not None
        pairs = [torch.cat([side[0] for side in cache.layer(layer)]) for layer in self._keys_of]
        found = {
            "ids": torch.tensor(ids, dtype=torch.int32),
            "said": said.to(torch.int32),
            "keys": torch.stack(pairs).permute(2, 0, 1, 3).flatten(2),  # [T, layers, 2 K C]
            "states": cache.states,
        }
        return {
            name: torch.cat((value, value.new_zeros(TOKENS - len(ids), *value.shape[1:])))
            for name, value in found.items()
        }


def read_all(folder: Path, reader: WriterReader, prompts: Prompts, seconds: float, first: int, step: int) -> None:
    """Read texts for so long, and write a file after every `TEXTS` of them: the files `first`, `first + step`, ..."""
    began = time.monotonic()
    for number in itertools.count(first, step):
        if time.monotonic() - began >= seconds:
            return
        place = folder / f"{number}.safetensors"
        if place.exists():
            continue
        drawn = list(prompts.of_file(number))
        rows, lengths = [reader.read(ids) for ids, _ in drawn], [len(ids) for ids, _ in drawn]
        stacked = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
        stacked |= {"lengths": torch.tensor(lengths), "prompts": torch.tensor([prompt for _, prompt in drawn])}
        part = place.with_suffix(".part")
        save_file(stacked, part)
        part.rename(place)
        print(f"{place.name}: {sum(lengths)} tokens, {time.monotonic() - began:.0f} s", flush=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("states", type=Path)
    parser.add_argument("--data", type=Path, default=Path(".train"))
    parser.add_argument("--folder", type=Path, action="append", default=[], help="further sources")
    parser.add_argument("--leave-out", action="append", default=[], help="packages and folders that are not read")
    parser.add_argument("--checkpoint", default=None)
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--first", type=int, default=0, help="number of the first file")
    parser.add_argument("--step", type=int, default=1, help="for several processes: how many there are")
    args = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device("cpu")
    loaded = checkpoints.load(selection.find(args.checkpoint, "cpu"), device, torch.float32, lambda share: None)
    texts = texts_of(args.data, args.folder, args.leave_out)
    random.Random(0).shuffle(texts)
    args.states.mkdir(parents=True, exist_ok=True)
    if not (args.states / "vocabulary.json").exists():
        count_tokens(args.states, texts, loaded.tokenizer)
    reader = WriterReader(loaded, json.loads((args.states / "vocabulary.json").read_text()))
    read_all(args.states, reader, Prompts(texts, loaded), args.seconds, args.first, args.step)


if __name__ == "__main__":
    main()
