"""Tiny networks, tokenizers and checkpoints with random weights, made on the spot for tests of the model."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from dgemma_model.checkpoint import contract, published_layout
from dgemma_model.checkpoint import load as checkpoints
from dgemma_model.checkpoint.config import Policy
from dgemma_model.checkpoint.selection import embedded_directory
from dgemma_model.infill import Infiller
from dgemma_model.network.config import LayerConfig, NetworkConfig
from dgemma_model.network.diffusion_gemma import Network
from dgemma_model.project.judge import Judge
from dgemma_model.prompt.tokenizer import Tokenizer
from dgemma_model.train import corpus

torch.set_num_threads(1)  # sums in another order give random weights another sample (threads.py)

SOURCE = '''\
class Account:
    """Money of one person."""

    def __init__(self, owner: str, balance: int = 0) -> None:
        self.owner = owner
        self.balance = balance

    def deposit(self, amount: int) -> int:
        if amount <= 0:
            raise ValueError("nothing to deposit")
        self.balance += amount
        return self.balance

    def withdraw(self, amount: int) -> int:
        if amount > self.balance:
            raise ValueError("not enough money")
        self.balance -= amount
        return self.balance


def total(accounts: list[Account]) -> int:
    result = 0
    for account in accounts:
        result += account.balance
    return result
'''
"""What the tiny tokenizer learns its merges from."""

VOCAB_SIZE = 400
EMBEDDED_JUDGE = Judge(Policy.read(embedded_directory()).judge or ())


@cache
def tiny_tokenizer() -> Tokenizer:
    """A byte-level tokenizer with a few merges, trained by the recipe's own code."""
    with patch.object(corpus, "VOCAB_SIZE", VOCAB_SIZE):
        return Tokenizer(corpus.train_tokenizer([SOURCE]))


def tiny_config(**changes: Any) -> NetworkConfig:
    """Three narrow layers whose window is shorter than most prompts."""
    sliding = LayerConfig("sliding_attention", 8, 2, 10_000.0, "default", 1.0)
    full = LayerConfig("full_attention", 16, 1, 100_000.0, "proportional", 0.5)
    settings: dict[str, Any] = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 24,
        "intermediate_size": 32,
        "num_attention_heads": 4,
        "sliding_window": 20,
        "num_experts": 2,
        "top_k_experts": 1,
        "moe_intermediate_size": 8,
        "layers": (sliding, full, full),
        "max_position_embeddings": 512,
        "canvas_length": 16,
    }
    return NetworkConfig(**settings | changes)


def random_network(config: NetworkConfig, seed: int = 0) -> Network:
    """A network whose every weight is random, so that each of them counts."""
    torch.manual_seed(seed)
    network = Network(config).eval().requires_grad_(False)
    randomize(network)
    return network


def lively_network(config: NetworkConfig, seed: int = 0) -> Network:
    """A random network that does not only repeat its last token: it says many things, line breaks and ends among
    them."""
    network = random_network(config, seed)
    for layer in network.layers:
        layer.post_attention_layernorm.weight.mul_(8.0)
        layer.post_feedforward_layernorm.weight.mul_(8.0)
    tokenizer = tiny_tokenizer()
    for token in (tokenizer.end_id, *tokenizer.encode("\n"), *tokenizer.encode("\n    ")):
        network.embed_tokens.weight[token].mul_(2.0)
    return network


def randomize(module: torch.nn.Module) -> None:
    """Add noise to all parameters, and set the layer scalars, which `transformers` keeps as buffers."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * (0.02 if parameter.dim() == 3 else 0.2))
        for name, buffer in module.named_buffers():
            if "layer_scalar" in name:
                buffer.fill_(0.6 + 0.8 * torch.rand(1).item())


@cache
def tiny_checkpoint(seed: int = 0, vocab_size: int = VOCAB_SIZE) -> Path:
    """A checkpoint directory with a random network; it stays until the tests end."""
    _FOLDERS.append(tempfile.TemporaryDirectory(prefix="dgemma-test-"))
    return write_checkpoint(Path(_FOLDERS[-1].name) / "tiny", seed, vocab_size)


def write_checkpoint(directory: Path, seed: int = 0, vocab_size: int = VOCAB_SIZE) -> Path:
    """Write a checkpoint with a random network into `directory`."""
    published_layout.save(lively_network(tiny_config(vocab_size=vocab_size), seed), directory)
    tiny_tokenizer()._tokenizer.save(str(directory / "tokenizer.json"))
    policy = {"name": "tiny", "noise": "mask", "verify": True, "canvas_lengths": [8, 16], "prompt_tokens": 96}
    policy["judge"] = list(EMBEDDED_JUDGE.weights)
    (directory / "dgemma.json").write_text(json.dumps(policy))
    return directory


_FOLDERS: list[tempfile.TemporaryDirectory[str]] = []


@cache
def _loaded(seed: int) -> contract.Checkpoint:
    return checkpoints.load(tiny_checkpoint(seed), torch.device("cpu"), torch.float32)


def tiny_infiller(seed: int = 0) -> Infiller:
    """A fresh infiller with a random network; fresh ones of the same seed share its weights."""
    return Infiller(_loaded(seed), torch.device("cpu"))


def changed_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Apply `change` to the JSON object in a file."""
    content = json.loads(path.read_text("utf-8"))
    change(content)
    path.write_text(json.dumps(content))


def worst(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference of two tensors of the same shape."""
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max())
