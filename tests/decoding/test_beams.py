"""Beam search in one pass a token, against one that reads every beam anew."""

from __future__ import annotations

import pytest
import torch
from model_fixtures import tiny_infiller, tiny_tokenizer

from dgemma_model.decoding import beams
from dgemma_model.decoding.constraint import ids_in_line
from dgemma_model.network.cache import Cache
from dgemma_model.prompt.format import EncodedPrompt, FillVocabulary
from dgemma_model.prompt.suffix_first import SuffixFirst
from dgemma_model.request import Excerpt

INFILLER = tiny_infiller()
NETWORK = INFILLER._checkpoint.network
TOKENIZER = tiny_tokenizer()
EXCERPTS = [
    Excerpt("x = ", "\n"),
    Excerpt("def f(self):\n    return ", "\n\n"),
    Excerpt("class A:\n    x = se", "lf\n"),
    Excerpt("total(", ")\n"),
    Excerpt("value = bal", " + 1\nreturn value\n"),
]


@torch.inference_mode()
def reference(prompt: EncodedPrompt, count: int) -> list[str]:
    """The same texts, nothing re-used."""
    ends = [TOKENIZER.end_id, *TOKENIZER.ids_starting(b"\n")]
    live, finished = [(0.0, (), prompt.forced)], dict[str, float]()
    for _ in range(beams.LONGEST + 1):
        longer = []
        for value, ids, forced in live:
            hidden = NETWORK.encode(torch.tensor([[*prompt.ids, *ids]]), Cache())
            said = NETWORK.logits(hidden[0, -1]).log_softmax(-1)[: TOKENIZER.vocab_size].tolist()
            allowed = set(range(len(said))) - set(TOKENIZER.special_ids) - set(ends)
            if forced:
                allowed = set(ids_in_line(TOKENIZER, forced, is_indent_settled=prompt.is_indent_settled))
            else:
                text = FillVocabulary(TOKENIZER, [TOKENIZER.end_id]).read(list(ids), prompt.forced)[0]
                end = float(torch.tensor([said[i] for i in ends]).logsumexp(0))
                finished[text] = max(finished.get(text, -torch.inf), value + end)
            for token in sorted(allowed, key=lambda token: -said[token])[:count]:
                data = TOKENIZER.token_bytes[token]
                added = 0.0 if forced and len(data) <= len(forced) else said[token]
                longer.append((value + added, (*ids, token), forced[len(data) :]))
        likeliest = sorted(filter(None, finished), key=lambda text: -finished[text])[:count]
        least = finished[likeliest[-1]] if len(likeliest) == count else -torch.inf
        live = [beam for beam in sorted(longer, reverse=True)[:count] if beam[0] > least]
        if not live:
            break
    return likeliest


@pytest.mark.parametrize("count", [1, 3, 5])
@pytest.mark.parametrize("excerpt", EXCERPTS)
def test_the_likeliest_texts_are_found_and_the_cache_stays_as_it_is(excerpt: Excerpt, count: int) -> None:
    prompt = SuffixFirst(TOKENIZER).encode(excerpt, INFILLER.prompt_tokens)
    with INFILLER._opened(excerpt) as opened:
        cached = opened.cached
        for _ in cached.read_all_of(prompt.ids):
            pass
        cached.append([5, 6, 7])  # as a fill leaves it
        *_, found = beams.search(opened, beams=count)
        assert cached.cache.length == len(cached.ids) == len(prompt.ids) + 3
    assert found == reference(prompt, count)
    assert len(set(found)) == len(found) <= count
    assert all(text and "\n" not in text for text in found)


def test_stopping_early_leaves_the_cache_as_it_is() -> None:
    with INFILLER._prompted(EXCERPTS[1]) as opened:
        cached = opened.cached
        before = cached.cache.length
        search = beams.search(opened)
        next(search)
        search.close()
        assert cached.cache.length == before
