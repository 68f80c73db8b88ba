"""What rounding the experts of DiffusionGemma changes, on random weights: weights, experts, layers, logits.

    python eval/expert_bits.py

The reference computes in float32 over weights in bfloat16, as they are published. `bfloat16` is the same network with
its products in bfloat16. Errors are relative: the norm of the difference over that of the reference.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import Tensor

from dgemma_model.bench.published_shape import published_config, small_config
from dgemma_model.network.cache import Cache
from dgemma_model.network.config import NetworkConfig
from dgemma_model.network.diffusion_gemma import Experts, Network
from dgemma_model.network.quantised.experts import QuantisedExperts, rounded_tensors
from dgemma_model.network.quantised.groupwise import Bits, rounded

SEEDS = 3
PROMPT, CANVAS = 96, 32
BITS: tuple[Bits, ...] = (8, 4)


def error(found: Tensor, reference: Tensor) -> float:
    """See above."""
    return float((found.float() - reference.float()).norm() / reference.float().norm())


def quantised(experts: Experts, config: NetworkConfig, bits: Bits) -> QuantisedExperts:
    """The same experts, rounded."""
    small = QuantisedExperts(config, bits)
    for name, parameter in experts.named_parameters():
        for part, tensor in rounded_tensors(name, [parameter], len(parameter), bits):
            setattr(small, part, tensor)
    return small


def random_network(config: NetworkConfig, seed: int) -> Network:
    """Weights like those of a network at the beginning of its training, all layers' scalars one."""
    torch.manual_seed(seed)
    network = Network(config).requires_grad_(False).eval()
    for tensor in network.state_dict().values():
        if tensor.dim() > 1:
            tensor.normal_(0, tensor.shape[-1] ** -0.5)
    network.embed_tokens.weight.normal_(0, 1)
    return network.to(torch.bfloat16).float()


def weights() -> None:
    """Errors of matrices themselves."""
    print("weights                      8 bit    4 bit")
    for name, drawn in (
        ("a bell curve", torch.randn(512, 2816)),
        ("heavier tails (t, 5 d.f.)", torch.distributions.StudentT(5.0).sample((512, 2816))),
    ):
        errors = [error(rounded(drawn, bits).dequantised(torch.float32), drawn) for bits in BITS]
        print(f"{name:26}" + "".join(f"{value:9.4f}" for value in errors))


def experts_at_published_width() -> None:
    """Errors of the experts' output at the published sizes, but for the number of experts."""
    config = replace(published_config(), num_experts=16)
    experts = Experts(config).requires_grad_(False)
    for parameter in experts.parameters():
        parameter.normal_(0, parameter.shape[-1] ** -0.5).copy_(parameter.bfloat16())
    small = {bits: quantised(experts, config, bits) for bits in BITS}
    print("\nexperts at the published width   bfloat16    8 bit    4 bit")
    for tokens in (1, 64):
        x, routing = torch.randn(tokens, config.hidden_size), torch.rand(tokens, config.num_experts)
        share, chosen = routing.softmax(-1).topk(config.top_k_experts)
        reference = experts(x, share, chosen)
        narrow = copy.deepcopy(experts).bfloat16()(x.bfloat16(), share, chosen)
        errors = [error(narrow, reference), *(error(small[bits](x, share, chosen), reference) for bits in BITS)]
        print(f"{tokens:3} tokens" + " " * 22 + "".join(f"{value:10.4f}" for value in errors))


def states(network: Network, ids: Tensor, canvas: Tensor) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """What each layer gives for a canvas, which experts it chooses there, and the logits of prompt and canvas."""
    cache = Cache()
    hidden = [network.encode(ids, cache)]
    outputs: list[Tensor] = []
    choices: list[Tensor] = []
    hooks = [layer.router.register_forward_hook(lambda *run: choices.append(run[2][1])) for layer in network.layers]
    for norm in (*(layer.input_layernorm for layer in network.layers[1:]), network.norm):
        hooks.append(norm.register_forward_pre_hook(lambda _, inputs: outputs.append(inputs[0])))
    hidden.append(network.decode(canvas, cache))
    for hook in hooks:
        hook.remove()
    return outputs, choices, [network.logits(state) for state in hidden]


def networks() -> None:
    """Errors after each layer of random networks, and of their logits."""
    config = replace(small_config(), num_experts=32, top_k_experts=4, moe_intermediate_size=96)
    rows: dict[str, list[list[float]]] = {}
    for seed in range(SEEDS):
        plain = random_network(config, seed)
        ids, canvas = torch.randint(config.vocab_size, (1, PROMPT)), torch.randint(config.vocab_size, (1, CANVAS))
        reference = states(plain, ids, canvas)
        others = {"bfloat16": copy.deepcopy(plain).bfloat16()}
        for bits in BITS:
            others[f"{bits} bit"] = copy.deepcopy(plain)
            for layer in others[f"{bits} bit"].layers:
                layer.experts = quantised(layer.experts, config, bits)
        for name, network in others.items():
            found = states(network, ids, canvas)
            layers = [error(mine, theirs) for mine, theirs in zip(found[0], reference[0], strict=True)]
            pairs = zip(found[1], reference[1], strict=True)
            same = [float((a[:, :, None] == b[:, None, :]).any(-1).float().mean()) for a, b in pairs]
            scores = [error(mine, theirs) for mine, theirs in zip(found[2], reference[2], strict=True)]
            first = (found[2][1].argmax(-1) == reference[2][1].argmax(-1)).float().mean()
            figures = [*layers, *scores, float(torch.tensor(same).mean()), float(first)]
            rows.setdefault(name, []).append(figures)
    heads = [*(f"layer {index}" for index in range(1, 1 + len(config.layers))), "prompt", "canvas", "experts", "first"]
    print(
        f"\nnetworks, mean of {SEEDS} seeds: a canvas after each layer, logits of prompt and canvas, and of the canvas"
    )
    print("the share of experts, and of likeliest tokens, that are the same")
    print(" " * 10 + "".join(f"{head:>10}" for head in heads))
    for name, runs in rows.items():
        print(f"{name:10}" + "".join(f"{value:10.4f}" for value in torch.tensor(runs).mean(0).tolist()))


if __name__ == "__main__":
    with torch.inference_mode():
        torch.manual_seed(0)
        weights()
        experts_at_published_width()
        networks()
