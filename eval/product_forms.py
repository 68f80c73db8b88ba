"""Which form of matrix product serves a pretrained writer on a CPU: how near its text is to float32's, and how long a
pass takes.

    python eval/product_forms.py quality MODEL.gguf PACKAGE_FOLDER... --lines 64 --out quality.jsonl
    OMP_NUM_THREADS=2 python eval/product_forms.py speed

`quality` cuts lines out of the Python files below the folders, and lets every form write them after the text on both
sides, greedily and up to the first line break. Texts are compared with those of plain float32 over the file's weights.
`speed` times the products of all layers and the head over random weights of Qwen2.5-Coder-0.5B's shape.
Results are in log/products.md.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import tokenizers
import torch
import torch.nn.functional as F  # noqa: N812 (the field's usual name)
from torch import Tensor, nn

from dgemma_model.checkpoint.gguf.file import GgufFile
from dgemma_model.network.cache import Cache
from dgemma_model.network.int8 import LARGEST_SHORT_DIGIT, Int8Product, quantised_rows
from dgemma_model.network.kernels import Product
from dgemma_model.network.packed import packed
from dgemma_model.network.qwen2 import Qwen2Network

Form = Callable[[Tensor, Tensor | None], Callable[[Tensor], Tensor]]
"""Makes a product of a weight [out, in] and a bias [out]."""
PREFIX_CHARS, SUFFIX_CHARS = 1000, 300
MOST_TOKENS = 40
CALIBRATION = 6
"""Prompts from which smoothing learns what activations look like."""


def float32(weight: Tensor, bias: Tensor | None) -> Callable[[Tensor], Tensor]:
    """As it is."""
    return lambda x: F.linear(x, weight, bias)


def bfloat16(weight: Tensor, bias: Tensor | None) -> Callable[[Tensor], Tensor]:
    """In oneDNN over packed bfloat16 weights."""
    product = Product(weight, torch.bfloat16)
    return lambda x: product(x).float() if bias is None else product(x).float() + bias


def int8(weight: Tensor, bias: Tensor | None, digits: int = 1) -> Callable[[Tensor], Tensor]:
    """8-bit weights with a scale per row, 8-bit activations with a scale per token."""
    rounded, scale = quantised_rows(weight)
    return Int8Product(packed(rounded), scale, bias, digits=digits)


def two_digits(weight: Tensor, bias: Tensor | None) -> Callable[[Tensor], Tensor]:
    """The same, with activations of two 8-bit digits."""
    return int8(weight, bias, digits=2)


def short_digits(weight: Tensor, bias: Tensor | None) -> Callable[[Tensor], Tensor]:
    """Two digits of 7 bits: for processors whose products of 8 bits overflow."""
    rounded, scale = quantised_rows(weight)
    return Int8Product(packed(rounded), scale, bias, digits=2, largest=LARGEST_SHORT_DIGIT)


def rounded_weights(weight: Tensor, bias: Tensor | None) -> Callable[[Tensor], Tensor]:
    """8-bit weights, float32 activations: the bound of all forms over such weights."""
    rounded, scale = quantised_rows(weight)
    return float32(rounded * scale[:, None], bias)


def rounded_in_groups(count: int) -> Form:
    """The same, with a scale for each of so many groups of a row's columns."""

    def form(weight: Tensor, bias: Tensor | None) -> Callable[[Tensor], Tensor]:
        rounded, scale = quantised_rows(weight.reshape(len(weight) * count, -1))
        return float32((rounded * scale[:, None]).view_as(weight), bias)

    return form


def grouped(weight: Tensor, bias: Tensor | None) -> Callable[[Tensor], Tensor]:
    """Eight groups of inputs, each with scales of its own."""
    parts = [int8(part.contiguous(), None) for part in weight.chunk(8, dim=1)]

    def product(x: Tensor) -> Tensor:
        chunks = zip(parts, x.chunk(8, dim=-1), strict=True)
        out = sum((part(chunk) for part, chunk in chunks), torch.zeros(()))
        return out if bias is None else out + bias

    return product


ATTENDED = ("q_proj", "k_proj", "v_proj")
GATES = ("gate_proj", "up_proj")


@dataclass(frozen=True)
class Variant:
    """A form for most products, one for the head, and others for some of a layer's linear maps, by their names."""

    usual: Form
    head: Form
    others: Mapping[str, Form] = field(default_factory=dict)
    smoothed: float | None = None
    """How much of the activations' outliers moves into the weights, 0 to 1; None for no smoothing."""

    def form_of(self, name: str) -> Form:
        """That of a layer's linear map of this name."""
        return self.others.get(name, self.usual)


def with_two_digits(*names: str, smoothed: float | None = None) -> Variant:
    """int8, where the linear maps of these names take activations of two digits."""
    return Variant(int8, int8, dict.fromkeys(names, two_digits), smoothed)


VARIANTS = {
    "float32": Variant(float32, float32),
    "bfloat16": Variant(bfloat16, bfloat16),
    "8-bit weights": Variant(rounded_weights, rounded_weights),
    "8-bit weights, 2 groups, downs 19": Variant(
        rounded_in_groups(2), rounded_weights, {"down_proj": rounded_in_groups(19)}
    ),
    "8-bit weights, 7 groups, downs 38": Variant(
        rounded_in_groups(7), rounded_weights, {"down_proj": rounded_in_groups(38)}
    ),
    "8-bit weights, 7 groups, downs 19, values exact": Variant(
        rounded_in_groups(7), rounded_weights, {"down_proj": rounded_in_groups(19), "v_proj": float32}
    ),
    "8-bit weights, smoothed 0": Variant(rounded_weights, rounded_weights, smoothed=0.0),
    "8-bit weights, smoothed 0.25": Variant(rounded_weights, rounded_weights, smoothed=0.25),
    "8-bit weights, smoothed 0.5": Variant(rounded_weights, rounded_weights, smoothed=0.5),
    "int8": Variant(int8, int8),
    "int8, head float32": Variant(int8, float32),
    "int8, down bfloat16": Variant(int8, int8, {"down_proj": bfloat16}),
    "int8, down two digits": with_two_digits("down_proj"),
    "int8, down and output two digits": with_two_digits("down_proj", "o_proj"),
    "int8, down and gates two digits": with_two_digits("down_proj", *GATES),
    "int8, down and qkv two digits": with_two_digits("down_proj", *ATTENDED),
    "int8, down, qkv and output two digits": with_two_digits("down_proj", *ATTENDED, "o_proj"),
    "int8, down in groups": Variant(int8, int8, {"down_proj": grouped}),
    "int8 two digits": Variant(two_digits, two_digits),
    "int8 two short digits": Variant(short_digits, short_digits),
    "int8 smoothed": Variant(int8, int8, smoothed=0.5),
    "int8 smoothed, down two digits": with_two_digits("down_proj", smoothed=0.5),
}


class Formed(nn.Module):
    """A product in the place of a linear layer."""

    def __init__(self, form: Form, linear: nn.Linear) -> None:
        super().__init__()
        self._product = form(linear.weight, linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self._product(x)


class Writer:
    """A network in some form, and its tokenizer."""

    def __init__(self, file: GgufFile, variant: Variant, prompts: list[list[int]]) -> None:
        self._tokenizer = read_tokenizer(file)
        with torch.device("meta"):
            network = Qwen2Network(file.config)
        network.load_state_dict({name: file.weight(name) for name in file.parameters()}, assign=True)
        network.requires_grad_(False)
        if variant.smoothed is not None:
            smooth(network, prompts, variant.smoothed)
        for layer in network.decoder_layers():
            for block in (layer.self_attn, layer.mlp):
                for name, linear in list(block.named_children()):
                    setattr(block, name, Formed(variant.form_of(name), linear))
        known = network.embed_tokens.weight[: self._tokenizer.get_vocab_size()]
        self._network, self._head = network, variant.head(known, None)
        self._stops = {i for i, token in self._tokenizer.get_added_tokens_decoder().items() if token.special}

    def line(self, prompt: list[int]) -> tuple[list[int], Tensor]:
        """What it writes up to the first line break, and the logits of each token [T, V]."""
        cache, ids, logits = Cache(), list[int](), list[Tensor]()
        hidden = self._network.encode(torch.tensor([prompt]), cache)
        while len(ids) < MOST_TOKENS:
            logits.append(self._head(hidden[0, -1:]))
            ids.append(int(logits[-1].argmax()))
            if ids[-1] in self._stops or "\n" in self._tokenizer.decode(ids):
                break
            hidden = self._network.encode(torch.tensor([ids[-1:]]), cache)
        return ids, torch.cat(logits)

    def logits(self, prompt: list[int], ids: list[int]) -> Tensor:
        """Logits of each of the tokens `ids` after a prompt, [T, V]."""
        hidden = self._network.encode(torch.tensor([prompt + ids[:-1]]), Cache())
        return self._head(hidden[0, len(prompt) - 1 :])

    def text(self, ids: list[int]) -> str:
        """The line that tokens spell."""
        return self._tokenizer.decode(ids).partition("\n")[0].rstrip()


def smooth(network: Qwen2Network, prompts: list[list[int]], strength: float) -> None:
    """Move outliers of activations into the weights that read them (SmoothQuant, arXiv 2211.10438).

    What divides them moves into the norm before, and before a down projection into the rows of the up projection.
    """
    peaks: dict[nn.Module, Tensor] = {}

    def remember(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        peak = inputs[0].flatten(0, -2).abs().amax(0)
        peaks[module] = torch.maximum(peaks.get(module, peak), peak)

    readers: list[tuple[nn.Module, tuple[nn.Module, ...]]] = []
    for layer in network.decoder_layers():
        attention, block = layer.self_attn, layer.mlp
        readers.append((layer.input_layernorm, (attention.q_proj, attention.k_proj, attention.v_proj)))
        readers.append((layer.post_attention_layernorm, (block.gate_proj, block.up_proj)))
        readers.append((block.up_proj, (block.down_proj,)))
    hooks = [linears[0].register_forward_pre_hook(remember) for _, linears in readers]
    for prompt in prompts:
        network.encode(torch.tensor([prompt]), Cache())
    for hook in hooks:
        hook.remove()
    for before, linears in readers:
        peak = torch.stack([linear.weight.abs().amax(0) for linear in linears]).amax(0)
        factor = peaks[linears[0]].clamp(min=1e-5) ** strength / peak.clamp(min=1e-5) ** (1 - strength)
        factor = factor.clamp(min=1e-3)
        before.weight.data = before.weight / (factor[:, None] if before.weight.dim() == 2 else factor)
        for linear in linears:
            linear.weight.data = linear.weight * factor


def read_tokenizer(file: GgufFile) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer.from_str(file.tokenizer_json())
    tokenizer.encode_special_tokens = True
    return tokenizer


def cut_lines(folders: list[Path], count: int) -> Iterator[tuple[str, str, str]]:
    """Text before a line, the line, and the text after it; one line of a file."""
    rng = random.Random(0)
    paths = sorted(path for folder in folders for path in folder.rglob("*.py"))
    rng.shuffle(paths)
    for path in paths:
        lines = path.read_text("utf-8", "replace").splitlines(keepends=True)
        if count == 0 or len(lines) < 40:
            continue
        at = rng.randrange(15, len(lines) - 5)
        line = lines[at].strip()
        if len(line) < 8 or line.startswith(("#", '"', "'", "import ", "from ")):
            continue
        indent = lines[at][: len(lines[at]) - len(lines[at].lstrip())]
        yield "".join(lines[:at])[-PREFIX_CHARS:] + indent, line, "\n" + "".join(lines[at + 1 :])[:SUFFIX_CHARS]
        count -= 1


def prompt_ids(tokenizer: tokenizers.Tokenizer, before: str, after: str) -> list[int]:
    prefix, suffix, middle = (tokenizer.token_to_id(f"<|fim_{name}|>") for name in ("prefix", "suffix", "middle"))
    return [prefix, *tokenizer.encode(before).ids, suffix, *tokenizer.encode(after).ids, middle]


def measure_quality(arguments: argparse.Namespace) -> None:
    """Write a line of JSON for each variant."""
    file = GgufFile(arguments.model)
    tokenizer = read_tokenizer(file)
    cut = list(cut_lines(arguments.folders, arguments.lines + CALIBRATION))
    prompts, truths = [prompt_ids(tokenizer, before, after) for before, _, after in cut], [line for _, line, _ in cut]
    calibration, prompts, truths = prompts[:CALIBRATION], prompts[CALIBRATION:], truths[CALIBRATION:]
    plain = Writer(file, VARIANTS["float32"], calibration)
    lines = [plain.line(prompt) for prompt in prompts]
    del plain
    for name in arguments.variants or [name for name in VARIANTS if name != "float32"]:
        writer = Writer(file, VARIANTS[name], calibration)
        counts = {"same": 0, "exact": 0, "exact in float32": 0}
        errors, divergences = [], []
        for prompt, truth, (ids, exact) in zip(prompts, truths, lines, strict=True):
            logits = writer.logits(prompt, ids)
            errors.append(((logits - exact).norm() / (exact - exact.mean(-1, keepdim=True)).norm()).item())
            scores = logits.log_softmax(-1), exact.log_softmax(-1)
            divergences.append(F.kl_div(*scores, reduction="batchmean", log_target=True).item())
            is_same = logits.argmax(-1).tolist() == ids
            own = ids if is_same else writer.line(prompt)[0]
            counts["same"] += writer.text(own) == writer.text(ids)
            counts["exact"] += writer.text(own).strip() == truth
            counts["exact in float32"] += writer.text(ids).strip() == truth
        mean = {"logit error": sum(errors) / len(errors), "divergence": sum(divergences) / len(divergences)}
        row = {"variant": name, "lines": len(prompts)} | counts | mean
        with arguments.out.open("a", encoding="utf-8") as out:
            out.write(json.dumps(row) + "\n")


SHAPES = {"usual": ((1152, 896), (896, 896), (9728, 896)), "down": ((896, 4864),), "head": ((151_665, 896),)}
LAYERS = 24
PASSES = (1, 2, 4, 8, 16, 32, 64, 256)
HEAD_TOKENS = 16
"""Tokens of a longer pass whose scores are asked for."""


def measure_speed(arguments: argparse.Namespace) -> None:
    """Print milliseconds a pass: all layers' products, and those of the head."""
    generator = torch.Generator().manual_seed(0)
    for name in arguments.variants or VARIANTS:
        variant = VARIANTS[name]
        layers = [
            [(form(torch.randn(shape, generator=generator), None), shape[1]) for shape in SHAPES[kind]]
            for _ in range(LAYERS)
            for kind, form in (("usual", variant.usual), ("down", variant.form_of("down_proj")))
        ]
        products = [product for layer in layers for product in layer]
        head = [(variant.head(torch.randn(SHAPES["head"][0], generator=generator), None), SHAPES["head"][0][1])]
        for tokens in PASSES:
            body, scores = best_time(products, tokens), best_time(head, min(tokens, HEAD_TOKENS))
            print(f"{name:32} {tokens:4} tokens {1000 * body:7.1f} ms, head {1000 * scores:6.1f} ms", flush=True)


def best_time(products: list[tuple[Callable[[Tensor], Tensor], int]], tokens: int, repeats: int = 5) -> float:
    """Seconds of the fastest of some runs, which other work on the machine disturbs least; of processor time with one
    thread, by the clock with several."""
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    inputs = {size: torch.randn(tokens, size) for _, size in products}
    times = []
    for _ in range(1 + repeats):
        started = clock()
        for product, size in products:
            product(inputs[size])
        times.append(clock() - started)
    return min(times[1:])


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    quality = commands.add_parser("quality")
    quality.add_argument("model", type=Path)
    quality.add_argument("folders", type=Path, nargs="+")
    quality.add_argument("--lines", type=int, default=64)
    quality.add_argument("--out", type=Path, required=True)
    quality.set_defaults(run=measure_quality)
    speed = commands.add_parser("speed")
    speed.set_defaults(run=measure_speed)
    for command in (quality, speed):
        command.add_argument("--variants", nargs="*", choices=VARIANTS)
    arguments = parser.parse_args()
    with torch.inference_mode():
        arguments.run(arguments)


if __name__ == "__main__":
    main()
