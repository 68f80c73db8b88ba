"""Verified fills: lossless speculation. The text is exactly what the causal head, mixed with copies from the prompt
(`copy_weight`), writes token by token; drafts only decide how many passes that takes.

A pass reads the last written token and a draft behind it; what the head would have written itself is kept, its own
token is taken at the first disagreement (Leviathan et al., arXiv 2211.17192, with greedy choices). Drafts come

- from the prompt, for nothing: what followed the last tokens before ("prompt lookup");
- from denoising, for a pass: as long as the last one saved more than it cost. What is left of it behind a
  disagreement is tried again, for nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from dgemma_model.checkpoint.load import Checkpoint
from dgemma_model.decoding.constraint import Constraint, ids_in_line
from dgemma_model.decoding.prompt_cache import CachedPrompt
from dgemma_model.decoding.sampler import Sampling, denoise
from dgemma_model.decoding.stopping import is_looping
from dgemma_model.network.threads import THREADS
from dgemma_model.project.copy_model import CopyModel
from dgemma_model.prompt.canvas import Prompt, read_fill
from dgemma_model.prompt.tokenizer import Tokenizer
from dgemma_model.request import Draft, Drafting, DraftToken, FillRequest

TRUSTED_MATCH = 2
"""A copy behind a match of so many tokens goes before a denoised draft."""
WORTHWHILE_GAIN = 2
"""Tokens that a denoised draft must have saved for another one to be made: it costs a pass, about one token's time."""
MISSES = 2
"""After so many passes that agreed with nothing of a denoised draft, the rest of it is dropped."""


@torch.inference_mode()
def fill(
    checkpoint: Checkpoint,
    cached: CachedPrompt,
    prompt: Prompt,
    request: FillRequest,
    sampling: Sampling,
    suggestions: CopyModel,
) -> Iterator[Draft]:
    """Yield a draft after each pass; the last one is whole. `cached` holds a beginning of the prompt; `suggestions` are
    fresh ones, of copies."""
    tokenizer, policy = checkpoint.tokenizer, checkpoint.config.policy
    text = CausalText(
        tokenizer,
        prompt,
        suggestions,
        limit=min(request.max_tokens, cached.room(prompt.ids) - len(prompt.forced)),
        one_line=request.one_line,
    )
    drafting: Drafting = policy.drafting if request.drafting is None else request.drafting
    if request.max_denoising_steps == 0:
        drafting = "none"
    denoised = _DenoisedDrafts(checkpoint, cached, sampling, pays=drafting in ("denoised", "both"))
    pending = prompt.ids[len(cached.ids) :]
    passes = 0
    while not text.is_finished:
        match, copied = text.suggestions.copies.continuation() if drafting in ("copied", "both") else (0, [])
        drafted = copied if match >= TRUSTED_MATCH else denoised.left or copied
        if not drafted and denoised.pays and text.ids and text.room > 1:
            for tokens in denoised.steps(text, policy.draft_steps, request.max_denoising_steps):
                passes += 1
                yield replace(text.draft(passes), tokens=(text.shown + tokens,))
            drafted = denoised.left
        read = drafted[: text.room]
        logits = cached.append([*pending, *read], last=len(read) + 1)
        passes += 1
        before = len(text.ids)
        agreed = text.take(logits, read)
        denoised.written(len(text.ids) - before, None if drafted is copied else agreed)
        cached.crop(len(prompt.ids) + max(0, len(text.ids) - 1))
        pending = text.ids[-1:]
        yield text.draft(passes)


class CausalText:
    """What the causal head has written so far."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt: Prompt,
        suggestions: CopyModel,
        *,
        limit: int,
        one_line: bool,
    ) -> None:
        self.limit = limit
        """Most tokens that are not forced, end-of-text included."""
        self.ids: list[int] = []
        self.forced = prompt.forced
        """Healed bytes still to be said."""
        self.is_indent_settled = prompt.is_indent_settled
        self.written = 0
        """Number of tokens that were not forced, end-of-text included."""
        self.suggestions = suggestions
        self.shown: tuple[DraftToken, ...] = ()
        self._tokenizer = tokenizer
        self._all_forced = prompt.forced
        self._one_line = one_line
        self._never = sorted(tokenizer.special_ids - {tokenizer.end_id})
        self._line_ends = [tokenizer.end_id, *tokenizer.ids_starting(b"\n")] if one_line else []
        self._line_end_set = frozenset(self._line_ends)
        self._log_probability = 0.0
        self._ended = False
        self._has_newline = False

    @property
    def is_finished(self) -> bool:
        """Whether nothing more is to be written."""
        cut = self.written >= self.limit or (self._one_line and self._has_newline)
        return self._ended or cut or is_looping(self.ids)

    @property
    def room(self) -> int:
        """How many more tokens may come, at most."""
        return self.limit - self.written + len(self.forced)

    def take(self, logits: Tensor, drafted: list[int]) -> int:
        """Write the next token, and those behind it as long as the draft foretold them; how many it did.

        `logits` [len(drafted) + 1, V] are of what follows the last written token, and each drafted one.
        """
        with THREADS.chosen(len(logits)):
            scores = logits.log_softmax(-1)
        said = scores[:, : self._tokenizer.vocab_size].cpu().numpy()  # numbers are read one by one
        said[:, self._never] = -np.inf
        likeliest = said.argmax(1).tolist()
        ending = np.logaddexp.reduce(said[:, self._line_ends], axis=1).tolist() if self._one_line else None
        for place, spoken in enumerate(said):
            token, log_probability = self._choose(spoken.item, likeliest[place], ending[place] if ending else -math.inf)
            self._write(token, log_probability)
            if self.is_finished or place == len(drafted) or token != drafted[place]:
                return place
        return len(drafted)

    def _choose(self, spoken: Callable[[int], float], best: int, ending: float) -> tuple[int, float]:
        """The next token and its log-probability: the head's distribution, mixed with what the prompt suggests.

        `spoken` gives the head's log-probability of a token, `best` is the likeliest, and `ending` the log-probability
        that the line ends: all that ends a line is one outcome, end-of-text, where only one line is wanted.
        """
        end, ends, best_value = self._tokenizer.end_id, frozenset[int](), spoken(best)
        allowed: Sequence[int] | None = None
        if self.forced:
            allowed = self._allowed()
            best = max(allowed, key=spoken)
            best_value = spoken(best)
        elif self._one_line:
            ends = self._line_end_set
            if best in ends or ending > best_value:
                best, best_value = end, ending

        def own(token: int) -> float:
            return ending if token == end and ends else spoken(token)

        share, copied = self.suggestions.predict(best_value, own, allowed)
        if not share:
            return best, best_value
        mixed = {best: math.exp(best_value) * (1 - share)}
        for token, count in copied.items():
            mixed[token] = share * count + math.exp(own(token)) * (1 - share)
        token = max(mixed, key=mixed.__getitem__)
        return token, math.log(mixed[token]) if mixed[token] else -math.inf

    def _allowed(self) -> Sequence[int]:
        return ids_in_line(self._tokenizer, self.forced, is_indent_settled=self.is_indent_settled)

    def _write(self, token: int, log_probability: float) -> None:
        data = self._tokenizer.token_bytes[token]
        is_free = len(self.forced) < len(data) or not self.forced  # what was forced says nothing about the fill
        if is_free:
            self._log_probability += log_probability
            self.written += 1
        if not self.forced and token == self._tokenizer.end_id:
            self._ended = True
            return
        beyond_forced = data[len(self.forced) :]
        self.forced = self.forced[len(data) :]
        self._has_newline = self._has_newline or b"\n" in beyond_forced
        self.ids.append(token)
        self.suggestions.append(token)
        if is_free:
            confidence = min(1.0, math.exp(log_probability))
            self.shown += (DraftToken(beyond_forced.decode("utf-8", "replace"), confidence, True),)

    def draft(self, passes: int) -> Draft:
        """What would be inserted now; its score is the mean log-probability of the free tokens."""
        text, _ = read_fill(self.ids, self._all_forced, self._tokenizer)
        return Draft(
            (text.split("\n", 1)[0] if self._one_line else text,),
            passes,
            complete=self._ended or (self._one_line and self._has_newline),
            score=self._log_probability / self.written if self.written else -math.inf,
            tokens=(self.shown,),
        )


@dataclass
class _DenoisedDrafts:
    """Denoised drafts, and whether they are worth their passes."""

    checkpoint: Checkpoint
    cached: CachedPrompt
    sampling: Sampling
    pays: bool
    left: list[int] = field(default_factory=list)
    """What the latest one says of the tokens to come."""
    _gain: int = 0
    _misses: int = 0
    _held_up: bool = False

    def steps(self, text: CausalText, steps: int, asked_steps: int | None) -> Iterator[tuple[DraftToken, ...]]:
        """Denoise what follows `text`, whose last token is not cached yet; yields what to show after each step."""
        tokenizer, noise, generator = self.checkpoint.tokenizer, self.sampling.noise, self.sampling.generator
        widths = sorted(self.checkpoint.config.policy.canvas_lengths)
        width = min(widths[1:2] or widths) if self._held_up else widths[0]
        width = min(width, text.room + 2)
        canvas = noise.draw((1, width), generator)
        canvas[0, 0] = text.ids[-1]
        pinned = torch.zeros_like(canvas, dtype=torch.bool)
        pinned[0, 0] = True
        constraint = Constraint(tokenizer, text.forced, is_indent_settled=text.is_indent_settled)
        config = replace(self.sampling.config, max_denoising_steps=steps if asked_steps is None else asked_steps)
        self._gain = self._misses = 0
        network, cache = self.checkpoint.network, self.cached.cache
        for step in denoise(network, cache, canvas, pinned, config, noise, generator, constraint.apply):
            drafted, confidence = step.best[0, 1:].tolist(), step.confidence[0, 1:].tolist()
            self.left = drafted[: drafted.index(tokenizer.end_id)] if tokenizer.end_id in drafted else drafted
            yield tuple(DraftToken(tokenizer.decode([i]), c, False) for i, c in zip(drafted, confidence, strict=True))
        self.pays = False  # until it has paid

    def written(self, count: int, agreed: int | None) -> None:
        """So many tokens were written, so many of them as drafted here (None where another draft was read)."""
        if agreed is not None and self.left:
            self._gain += agreed
            self._misses = 0 if agreed else self._misses + 1
            self._held_up = agreed == len(self.left)
            self.pays = self.pays or self._gain >= WORTHWHILE_GAIN
        self.left = self.left[count:] if self._misses < MISSES else []
