"""The face of the model: load a checkpoint, fill holes. Everything it takes and gives is plain data (request.py).

Two ways to fill:

- *plain*: one canvas with all holes is denoised; the only way for several holes.
- *verified* (`Policy.verify`): the canvas is a draft. The encoder, a causal language model over the same weights,
reads the draft in one pass; what it would have written itself is kept, its own token is taken at the first
disagreement, and the rest is drafted again. The text is exactly what the causal head, mixed with copies from the
prompt (`copy_weight`), writes token by token. With copies, a line is the likelier of that and the nearby line most
like the missing one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from dgemma_model import checkpoint as checkpoints
from dgemma_model.canvas import Prompt, encode_prompt, lay_out, read_fill
from dgemma_model.checkpoint import Checkpoint, CheckpointError
from dgemma_model.config import SamplerConfig
from dgemma_model.copying import WEIGHT_BY_MATCH, PromptCopies, most_similar_line
from dgemma_model.network import Cache
from dgemma_model.request import Draft, DraftToken, FillRequest
from dgemma_model.sampler import CanvasStep, Noise, denoise
from dgemma_model.stopping import AnyOf, NothingLeft, StableAndConfident, is_looping
from dgemma_model.tokenizer import Tokenizer

ONE_LINE_TOKENS = 32
"""Canvas of a fill that ends with its line; more than 99 % of lines fit."""


class Infiller:
    """A loaded checkpoint that fills holes. Not for several threads at once: one thread owns it."""

    def __init__(self, checkpoint: Checkpoint, device: torch.device) -> None:
        self._network = checkpoint.network
        self._tokenizer = checkpoint.tokenizer
        self._sampler = checkpoint.config.sampler
        self._policy = checkpoint.config.policy
        self._device = device
        self._noise = Noise(
            self._network.config.vocab_size,
            self._tokenizer.mask_id if self._policy.noise == "mask" else None,
        )
        self._cache, self._cached_ids = Cache(), list[int]()
        self.name = self._policy.name or checkpoint.directory.name
        self.device = str(device)
        self.languages = frozenset(self._policy.languages) if self._policy.languages is not None else None
        self.threshold = self._policy.threshold

    @classmethod
    def load(cls, checkpoint: str | None = None, device: str | None = None) -> Infiller:
        """Load a checkpoint directory, by default the embedded one, onto a device, by default the GPU if there is one.

        Raises:
            CheckpointError: the checkpoint or the device cannot be used; the message is for users.
        """
        directory = Path(checkpoint).expanduser() if checkpoint else checkpoints.embedded_directory()
        place = _device(device)
        dtype = torch.bfloat16 if place.type == "cuda" else torch.float32
        return cls(checkpoints.load(directory, place, dtype), place)

    def fill(self, request: FillRequest) -> Iterator[Draft]:
        """Yield a draft after every pass over the canvas, the last one with `done` set; stop reading to stop the
        work."""
        verify = self._policy.verify if request.verify is None else request.verify
        config = self._sampler_config(request)
        generator = torch.Generator(self._device).manual_seed(request.seed)
        with torch.inference_mode():
            prompt = encode_prompt(request.excerpt, self._tokenizer, self._policy.prompt_tokens)
            next_logits = self._encode_prompt(prompt)
        if verify and request.excerpt.hole_count == 1:
            yield from self._fill_verified(request, prompt, next_logits, config, generator)
        else:
            yield from self._fill_plain(request, prompt, config, generator)

    def _sampler_config(self, request: FillRequest) -> SamplerConfig:
        config = self._sampler
        if request.max_denoising_steps is not None:
            config = replace(config, max_denoising_steps=request.max_denoising_steps)
        if request.entropy_bound is not None:
            config = replace(config, entropy_bound=request.entropy_bound)
        return config

    def _encode_prompt(self, prompt: Prompt) -> Tensor:
        """Bring the cache to exactly `prompt`, encoding only what follows the common prefix; return its last logits,
        [V]."""
        common = 0
        for ours, theirs in zip(self._cached_ids, prompt.ids, strict=False):
            if ours != theirs:
                break
            common += 1
        common = min(common, len(prompt.ids) - 1)  # one token at least, for its logits
        self._cached_ids = self._cached_ids[:common]
        self._cache.crop(common)
        return self._append(prompt.ids[common:])[-1]

    def _append(self, ids: list[int]) -> Tensor:
        """Encode `ids` behind the cache; logits [len(ids), V]."""
        hidden = self._network.encode(torch.tensor([ids], device=self._device), self._cache)
        self._cached_ids = self._cached_ids + ids
        return self._network.logits(hidden[0])

    def _crop(self, length: int) -> None:
        self._cache.crop(length)
        self._cached_ids = self._cached_ids[:length]

    # ------------------------------------------------------------------ plain

    def _fill_plain(
        self, request: FillRequest, prompt: Prompt, config: SamplerConfig, generator: torch.Generator
    ) -> Iterator[Draft]:
        layout = lay_out(request.excerpt, self._hole_width(request), self._tokenizer)
        pinned = torch.tensor([layout.pinned], device=self._device)
        noise = self._noise.draw(tuple(pinned.shape), generator)
        canvas = torch.where(pinned, torch.tensor([layout.ids], device=self._device), noise)
        constraint = _Constraint(self._tokenizer, prompt.forced)
        stop = AnyOf((NothingLeft(), StableAndConfident(config.stability_threshold, config.confidence_threshold)))
        steps: list[CanvasStep] = []
        draft = Draft(texts=("",) * request.excerpt.hole_count, step=0)
        for step in denoise(
            self._network, self._cache, canvas, pinned, config, self._noise, generator, constraint.apply
        ):
            steps.append(step)
            draft = self._plain_draft(request, step, layout.hole_slices, prompt.forced)
            if stop.should_stop(steps, ~pinned):
                break
            yield draft
        if request.excerpt.hole_count == 1:
            draft = replace(draft, score=float(self._read(draft.text, prompt, one_line=request.one_line).mean()))
        yield replace(draft, done=True)

    def _hole_width(self, request: FillRequest) -> int:
        wanted = ONE_LINE_TOKENS if request.one_line else min(request.max_tokens, max(self._policy.canvas_lengths))
        fitting = [length for length in sorted(self._policy.canvas_lengths) if length >= wanted]
        return fitting[0] if fitting else wanted

    def _plain_draft(self, request: FillRequest, step: CanvasStep, holes: tuple[slice, ...], forced: bytes) -> Draft:
        texts, all_ended = [], True
        for number, hole in enumerate(holes):
            ids = step.best[0, hole].tolist()[: request.max_tokens]
            text, ended = read_fill(ids, forced if number == 0 else b"", self._tokenizer)
            if request.one_line and "\n" in text:
                text, ended = text.split("\n", 1)[0], True
            texts.append(text)
            all_ended = all_ended and ended
        tokens = tuple(self._shown(step, hole) for hole in holes)
        mean_log_confidence = torch.cat([step.confidence[0, hole] for hole in holes]).clamp(min=1e-9).log().mean()
        return Draft(tuple(texts), step.index, complete=all_ended, score=mean_log_confidence.item(), tokens=tokens)

    def _read(self, text: str, prompt: Prompt, *, one_line: bool) -> Tensor:
        """Log-probabilities, in nats, of a fill's tokens and of its end under the causal head; what healing forces
        does not count.

        The end is end-of-text, or with `one_line` a line break as well.
        """
        tokenizer, length = self._tokenizer, len(prompt.ids)
        ids = tokenizer.encode(prompt.forced.decode("utf-8", "replace") + text)
        forced = 0
        for size in itertools.accumulate(len(tokenizer.token_bytes[i]) for i in ids):
            forced += size <= len(prompt.forced)
        ends = [tokenizer.end_id, *(tokenizer.ids_starting(b"\n") if one_line else [])]
        with torch.inference_mode():
            self._crop(length - 1)
            log_probabilities = self._append([prompt.ids[-1], *ids]).log_softmax(-1)
            self._crop(length)
            said = log_probabilities[torch.arange(forced, len(ids)), torch.tensor(ids[forced:], dtype=torch.int64)]
            return torch.cat((said, log_probabilities[-1, ends].logsumexp(0, keepdim=True)))

    def _shown(self, step: CanvasStep, positions: slice) -> tuple[DraftToken, ...]:
        ids = step.best[0, positions].tolist()
        confidence = step.confidence[0, positions].tolist()
        accepted = step.accepted[0, positions].tolist()
        return tuple(
            DraftToken(self._tokenizer.decode([i]), c, a) for i, c, a in zip(ids, confidence, accepted, strict=True)
        )

    # --------------------------------------------------------------- verified

    def _fill_verified(
        self,
        request: FillRequest,
        prompt: Prompt,
        next_logits: Tensor,
        config: SamplerConfig,
        generator: torch.Generator,
    ) -> Iterator[Draft]:
        tokenizer = self._tokenizer
        copy_weight = self._policy.copy_weight if request.copy_weight is None else request.copy_weight
        state = _Verified(tokenizer, prompt, copy_weight)
        passes = 0
        limit = request.max_tokens
        asked = request.max_denoising_steps
        draft_steps = self._policy.draft_steps if asked is None else asked  # none at all: token by token
        all_widths = tuple(sorted(self._policy.canvas_lengths))
        widths = all_widths
        while True:
            # The causal head gives the next token for nothing: its logits are there from the pass before.
            state.take(next_logits)
            if state.is_finished(limit, request.one_line):
                break
            width = min(widths[0], limit - state.written + 2)
            drafted: list[int] = []
            if width > 1 and draft_steps:
                canvas = self._noise.draw((1, width), generator)
                canvas[0, 0] = state.ids[-1]
                pinned = torch.zeros_like(canvas, dtype=torch.bool)
                pinned[0, 0] = True
                constraint = _Constraint(tokenizer, state.forced, first=1)
                draft_config = replace(config, max_denoising_steps=draft_steps)
                for step in denoise(
                    self._network, self._cache, canvas, pinned, draft_config, self._noise, generator, constraint.apply
                ):
                    passes += 1
                    guess = tuple(replace(token, settled=False) for token in self._shown(step, slice(1, width)))
                    tokens = (state.shown + guess,)
                    yield Draft((state.text(request.one_line),), passes, score=state.score, tokens=tokens)
                    drafted = step.best[0, 1:].tolist()
            if tokenizer.end_id in drafted:
                drafted = drafted[: drafted.index(tokenizer.end_id)]
            with torch.inference_mode():
                logits = self._append([state.ids[-1], *drafted])
            passes += 1
            agreed = 0
            for token in drafted:
                if state.would_take(logits[agreed]) != token:
                    break
                state.take(logits[agreed])
                agreed += 1
                if state.is_finished(limit, request.one_line):
                    break
            self._crop(len(prompt.ids) + len(state.ids))
            # A draft that held up to its end asks for a longer one; one that did not, for the shortest.
            widths = (widths[1:] or widths) if agreed == len(drafted) else all_widths
            if state.is_finished(limit, request.one_line):
                break
            next_logits = logits[agreed]
            yield Draft((state.text(request.one_line),), passes, score=state.score, tokens=(state.shown,))
        draft = Draft(
            (state.text(request.one_line),),
            max(passes, 1),
            done=True,
            complete=state.ended or (request.one_line and state.has_newline),
            score=state.score,
            tokens=(state.shown,),
        )
        yield self._or_similar_line(draft, request, prompt) if request.one_line and copy_weight else draft

    def _or_similar_line(self, draft: Draft, request: FillRequest, prompt: Prompt) -> Draft:
        """`draft`, or what the most similar nearby line says where the causal head finds that likelier as a whole."""
        copied = most_similar_line(request.excerpt.prefix, request.excerpt.suffix)
        if not copied or copied == draft.text:
            return draft
        ours, theirs = (self._read(text, prompt, one_line=True) for text in (draft.text, copied))
        if theirs.sum() <= ours.sum():
            return draft
        confidence = math.exp(float(theirs.mean()))
        shown = (DraftToken(copied, confidence, settled=True),)
        return replace(draft, texts=(copied,), complete=True, score=float(theirs.mean()), tokens=(shown,))


class _Constraint:
    """Keeps what is drafted in line with the healed text that must come first, position by position."""

    def __init__(self, tokenizer: Tokenizer, forced: bytes, first: int = 0) -> None:
        self._tokenizer, self._forced, self._first = tokenizer, forced, first
        self._never = sorted(tokenizer.special_ids - {tokenizer.end_id})

    def apply(self, logits: Tensor) -> Tensor:
        """[B, L, V] -> the same with -inf for special tokens, and certainty along the healed text."""
        logits[..., self._never] = -torch.inf
        logits[..., self._tokenizer.vocab_size :] = -torch.inf  # a network may know more ids than its tokenizer
        remaining, position = self._forced, self._first
        while remaining and position < logits.shape[1]:
            token = best_allowed(logits[0, position], self._tokenizer.ids_starting(remaining))
            logits[:, position] = -torch.inf
            logits[:, position, token] = 0.0
            remaining = remaining[len(self._tokenizer.token_bytes[token]) :]
            position += 1
        return logits


def best_allowed(logits: Tensor, allowed: list[int]) -> int:
    """The most likely of the `allowed` ids; `logits` is [V]."""
    candidates = torch.tensor(allowed, device=logits.device)
    return int(candidates[logits[candidates].argmax()])


class _Verified:
    """What the causal head has written so far."""

    def __init__(self, tokenizer: Tokenizer, prompt: Prompt, copy_weight: float) -> None:
        self.forced = prompt.forced
        """Healed bytes still to be said."""
        self.ids: list[int] = []
        self.ended = False
        self.has_newline = False
        self._tokenizer = tokenizer
        self._all_forced = prompt.forced
        self._copies = PromptCopies(prompt.text)
        self._copy_weight = copy_weight
        self._log_probability = 0.0
        self.written = 0
        """Number of tokens that were not forced, end-of-text included."""
        self._never = torch.tensor(sorted(tokenizer.special_ids - {tokenizer.end_id}))
        self.shown: tuple[DraftToken, ...] = ()

    def would_take(self, logits: Tensor) -> int:
        """The token that the causal head writes next; [V] logits."""
        return self._choose(self._log_probabilities(logits))

    def _choose(self, log_probabilities: Tensor) -> int:
        if self.forced:
            return best_allowed(log_probabilities, self._tokenizer.ids_starting(self.forced))
        spoken = log_probabilities[: self._tokenizer.vocab_size]
        return int(spoken.index_fill(0, self._never.to(spoken.device), -torch.inf).argmax())

    def _log_probabilities(self, logits: Tensor) -> Tensor:
        """The causal head's distribution, mixed with what the prompt suggests to copy; [V]."""
        length, copied = self._copies.predict() if self._copy_weight else (0, {})
        share = self._copy_weight * WEIGHT_BY_MATCH[length]
        if not share:
            return logits.log_softmax(-1)
        mixed = logits.softmax(-1) * (1 - share)
        ids = torch.tensor(list(copied), device=logits.device)
        mixed[ids] += share * torch.tensor(list(copied.values()), device=logits.device)
        return mixed.log()

    def take(self, logits: Tensor) -> None:
        """Write the next token."""
        log_probabilities = self._log_probabilities(logits)
        token = self._choose(log_probabilities)
        data = self._tokenizer.token_bytes[token]
        log_probability = float(log_probabilities[token])
        is_free = not self.forced or len(self.forced) < len(data)  # what was forced says nothing about the fill
        if is_free:
            self._log_probability += log_probability
            self.written += 1
        if not self.forced and token == self._tokenizer.end_id:
            self.ended = True
            return
        beyond_forced = data[len(self.forced) :]
        self.forced = self.forced[len(data) :]
        self.has_newline = self.has_newline or b"\n" in beyond_forced
        self.ids.append(token)
        self._copies.append(token)
        if is_free:
            confidence = min(1.0, math.exp(log_probability))
            self.shown += (DraftToken(beyond_forced.decode("utf-8", "replace"), confidence, True),)

    def is_finished(self, limit: int, one_line: bool) -> bool:
        """Whether nothing more is to be written."""
        return self.ended or self.written >= limit or (one_line and self.has_newline) or is_looping(self.ids)

    @property
    def score(self) -> float:
        """Mean log-probability of the free tokens, in nats."""
        return self._log_probability / self.written if self.written else float("-inf")

    def text(self, one_line: bool) -> str:
        """What would be inserted now."""
        text, _ = read_fill(self.ids, self._all_forced, self._tokenizer)
        return text.split("\n", 1)[0] if one_line else text


def _device(name: str | None) -> torch.device:
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:
        raise CheckpointError(f"device {name!r} cannot be used: {str(error).splitlines()[0]}; try 'cpu'") from error
    return device
