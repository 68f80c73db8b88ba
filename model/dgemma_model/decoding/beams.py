"""The likeliest texts of one line under the causal head alone, by beam search: all beams take one pass a token.

The tokens of the beams are nodes of a tree after the prompt, in one row of the cache. A pass reads the newest nodes.
Each of them sees the prompt and its own beam.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch

from dgemma_model.decoding.constraint import ids_in_line
from dgemma_model.decoding.prompt_cache import OpenPrompt

BEAMS, LONGEST = 3, 8
"""Most texts, and most tokens of each (log/archive.md)."""


class _Beam(NamedTuple):
    log_probability: float
    ids: tuple[int, ...]
    nodes: tuple[int, ...]
    """The nodes of its tokens, first that of the prompt's last token, without the newest token."""
    forced: bytes
    """Healed bytes that are not written yet."""


@torch.inference_mode()
def search(opened: OpenPrompt, *, beams: int = BEAMS) -> Iterator[list[str]]:
    """Yield the likeliest texts known after each pass, the likeliest first; the last list is complete.

    A list has at most `beams` texts. All but the last token of the prompt must be cached; the cache stays as it is.
    """
    cached, prompt, vocabulary = opened.cached, opened.prompt, opened.vocabulary
    cache, kept, before = cached.cache, cached.cache.length, len(prompt.ids) - 1
    tokenizer, never, ends = vocabulary.tokenizer, vocabulary.never, list(vocabulary.line_ends)
    live, finished = [_Beam(0.0, (), (), prompt.forced)], dict[str, float]()
    longest = min(1 + LONGEST, cached.room(prompt.ids))
    try:
        for depth in range(longest):
            start = cache.length - kept
            nodes = [(*beam.nodes, start + number) for number, beam in enumerate(live)]
            seen = torch.zeros(len(live), cache.length + len(live), dtype=torch.bool)
            seen[:, :before] = True
            for number, own in enumerate(nodes):
                seen[number, [kept + node for node in own]] = True
            tokens = [[beam.ids[-1] if beam.ids else prompt.ids[-1] for beam in live]]
            positions = torch.full((1, len(live)), before + depth, device=cached.device)
            hidden = cached.network.encode(
                torch.tensor(tokens, device=cached.device), cache, positions=positions, seen=seen.to(cached.device)
            )
            log_probs = cached.network.logits(hidden[0]).log_softmax(-1)[:, : tokenizer.vocab_size]
            log_probs[:, never] = -torch.inf
            ending = log_probs[:, ends].logsumexp(-1).tolist()
            longer = list[_Beam]()
            for beam, own, end, row in zip(live, nodes, ending, log_probs, strict=True):
                if beam.forced:
                    allowed = ids_in_line(tokenizer, beam.forced, is_indent_settled=prompt.is_indent_settled)
                    row = torch.full_like(row, -torch.inf).index_copy_(
                        0, torch.tensor(allowed, device=row.device), row[list(allowed)]
                    )
                else:
                    text, _ = opened.read(beam.ids)
                    finished[text] = max(finished.get(text, -torch.inf), beam.log_probability + end)
                    row[ends] = -torch.inf
                best = row.topk(min(beams, len(row)))
                for token, value in zip(best.indices.tolist(), best.values.tolist(), strict=True):
                    if value > -torch.inf:
                        data = tokenizer.token_bytes[token]
                        counts = not beam.forced or len(data) > len(beam.forced)
                        log_probability = beam.log_probability + value * counts
                        longer.append(_Beam(log_probability, (*beam.ids, token), own, beam.forced[len(data) :]))
            likeliest = sorted(filter(None, finished), key=lambda text: -finished[text])[:beams]
            least = finished[likeliest[-1]] if len(likeliest) == beams else -torch.inf
            live = [beam for beam in sorted(longer, reverse=True)[:beams] if beam.log_probability > least]
            yield likeliest
            if not live:
                return
    finally:
        cache.crop(kept)
