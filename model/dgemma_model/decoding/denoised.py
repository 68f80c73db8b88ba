"""Denoised fills: the holes are regions of one canvas, the text between them is pinned, and every step gives a draft.

The first canvas is as wide as what is asked for: the rest of a line, a line, or more. As long as a hole has not ended,
it grows. A single hole gets another canvas after the first one, as published for long texts. Of several holes, those
that are too narrow are widened. Candidates are rows of a batch over one cache.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dgemma_model.checkpoint.contract import Checkpoint
from dgemma_model.decoding.causal import next_token_logits
from dgemma_model.decoding.constraint import Constraint, remaining_forced
from dgemma_model.decoding.plan import FillPlan
from dgemma_model.decoding.prompt_cache import CachedPrompt, OpenPrompt
from dgemma_model.decoding.sampler import CanvasStep, Noise, Sampling, denoise
from dgemma_model.decoding.stopping import AnyOf, NothingLeft, StableAndConfident, is_looping
from dgemma_model.network.cache import Cache
from dgemma_model.prompt.format import Layout
from dgemma_model.request import Draft, DraftToken, Excerpt, InfillError

REST_OF_LINE_TOKENS, LINE_TOKENS, BLOCK_TOKENS = 16, 32, 64
"""Canvas to begin with, by what is asked for; more than 99 % of lines fit into theirs."""
RENOISE_ROUNDS = 3
"""How often positions that the causal head would not write are drawn again."""


@dataclass(frozen=True, slots=True)
class PartialNoise(Noise):
    """Noise that spares kept tokens: such a position holds its token until the network replaces it."""

    ids: Tensor | None = None
    """[1, L] or [B, L] int64: the kept tokens, and -1 at all other positions."""

    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Noise ids, and the kept ones where there are such."""
        fresh = Noise.draw(self, shape, generator)
        return fresh if self.ids is None else torch.where(self.ids >= 0, self.ids, fresh)


class DenoisedFill:
    """One fill on its way. All of the prompt is cached; more is written there only where a single hole goes on."""

    def __init__(
        self, checkpoint: Checkpoint, opened: OpenPrompt, excerpt: Excerpt, plan: FillPlan, sampling: Sampling
    ) -> None:
        self._checkpoint, self._cached, self._prompt = checkpoint, opened.cached, opened.prompt
        self._excerpt, self._plan, self._sampling = excerpt, plan, sampling
        self._format, self._policy = checkpoint.format, checkpoint.policy
        self._vocabulary, self._tokenizer = opened.vocabulary, opened.vocabulary.tokenizer
        self._passes = self._revised = 0
        self._best = torch.empty(plan.candidates, 0, dtype=torch.int64)
        """[B, L], on the host: the canvas as the latest step left it."""
        self._written = torch.empty(plan.candidates, 0, dtype=torch.int64)
        """[B, n], on the host: canvases before the present one."""
        self._shown: tuple[DraftToken, ...] = ()
        """Their tokens, of the first row."""
        count = excerpt.hole_count
        self._latest = Draft(("",) * count, 0, tokens=((),) * count)

    def drafts(self) -> Iterator[Draft]:
        """A draft after each pass; the last one is whole."""
        if self._sampling.config.max_denoising_steps == 0:
            return iter(())
        return self._one_hole() if self._excerpt.hole_count == 1 else self._several_holes()

    def texts(self) -> list[str]:
        """What each row fills the (single) hole with, so far."""
        rows = torch.cat((self._written, self._best), dim=1).tolist()
        return [self._read(row, self._prompt.forced)[0] for row in rows]

    @torch.inference_mode()
    def _one_hole(self) -> Iterator[Draft]:
        plan, rows = self._plan, self._plan.candidates
        cache = self._cached.cache if rows == 1 else self._cached.cache.repeated(rows)
        start = self._start()
        widths = [w for w in sorted(self._policy.canvas_lengths) if w >= self._first_width(0, len(start[0] or ()))]
        while True:
            width, widths = widths[0], widths[1:] or widths
            layout = self._format.lay_out(Excerpt("", ""), [width])
            kept = self._noised(layout, start)
            yield from self._as_it_stands()
            yield from self._denoise(cache, layout, kept)
            start = [None]
            if plan.renoise:
                yield from self._renoise(cache, layout)
            whole = torch.cat((self._written, self._best), dim=1)
            all_ended = all(self._read(row, self._prompt.forced)[1] or is_looping(row) for row in whole.tolist())
            next_end = len(self._prompt.ids) + whole.shape[1] + widths[0]
            if all_ended or whole.shape[1] >= plan.max_tokens or next_end > self._context:
                return
            self._go_on(cache)
            yield replace(self._latest, step=self._passes)

    def _go_on(self, cache: Cache) -> None:
        """Append the canvas to the prompt, and begin another one."""
        if cache is self._cached.cache:
            self._cached.append(self._best[0].tolist(), last=0)
        else:
            self._checkpoint.network.encode(self._best.to(self._cached.device), cache)
        self._passes += 1
        self._shown += tuple(DraftToken(self._tokenizer.decode([i]), 1.0, True) for i in self._best[0].tolist())
        self._written = torch.cat((self._written, self._best), dim=1)

    @torch.inference_mode()
    def _several_holes(self) -> Iterator[Draft]:
        plan, start = self._plan, self._start()
        widths = [self._first_width(hole, len(ids or ())) for hole, ids in enumerate(start)]
        widest = max(self._policy.canvas_lengths)
        layout = self._format.lay_out(self._excerpt, widths)
        kept = self._noised(layout, start)
        yield from self._as_it_stands()
        while True:
            yield from self._denoise(self._cached.cache, layout, kept)
            found = [self._best[0, hole].tolist() for hole in layout.hole_slices]
            ended = [self._read(ids, self._forced(number))[1] for number, ids in enumerate(found)]
            limit = min(widest, plan.max_tokens)
            wider = [w if e else min(2 * w, max(w, limit)) for w, e in zip(widths, ended, strict=True)]
            more = sum(wider) - sum(widths)
            if not more or len(self._prompt.ids) + len(layout.ids) + more > self._context:
                return
            widths = wider
            layout = self._format.lay_out(self._excerpt, widths)
            kept = self._kept(layout, found)

    def _as_it_stands(self) -> Iterator[Draft]:
        """The text to repair, as a draft, if a pass has read it."""
        if self._plan.start is not None and self._passes:
            self._latest = replace(self._latest, texts=self._plan.start, step=self._passes)
            yield self._latest

    # ------------------------------------------------------------ one canvas

    def _denoise(self, cache: Cache, layout: Layout, kept: Tensor) -> Iterator[Draft]:
        """Denoise one canvas; positions where `kept` [1, L], on the host, is no -1 begin with that token."""
        if cache.length + len(layout.ids) > self._context:
            raise InfillError(
                f"prompt and canvas need {cache.length + len(layout.ids)} tokens, the model's context has "
                f"{self._context}; ask for fewer holes or with less text between them"
            )
        sampling, rows, device = self._sampling, self._plan.candidates, self._cached.device
        noise = PartialNoise(sampling.noise.vocab_size, sampling.noise.mask_id, kept.to(device))
        shape = (rows, len(layout.ids))
        pinned = torch.tensor([layout.pinned]).expand(shape)
        fixed = torch.tensor([layout.ids]).expand(shape)
        canvas = torch.where(pinned.to(device), fixed.to(device), noise.draw(shape, sampling.generator))
        forced = remaining_forced(self._prompt.forced, self._written[0].tolist() if rows else [], self._tokenizer)
        constrain = Constraint(self._vocabulary, forced, is_indent_settled=self._prompt.is_indent_settled).apply
        config = self._plan.sampler_for(int((~pinned[0]).sum()))
        rule = AnyOf((NothingLeft(), StableAndConfident(config.stability_threshold, config.confidence_threshold)))
        steps: list[CanvasStep] = []
        placed = torch.where(pinned, -1, kept.expand(shape))
        network = self._checkpoint.network
        self._best = canvas.cpu()
        for step in denoise(network, cache, canvas, pinned, config, noise, sampling.generator, constrain):
            steps.append(step)
            self._passes += 1
            self._best = step.best
            changed = (placed >= 0) & (placed != step.best)
            self._revised += int(changed[0].sum())
            placed = torch.where(step.accepted & ~pinned, step.next_canvas, torch.where(changed, step.best, placed))
            self._latest = self._draft(step, layout)
            yield self._latest
            if rule.should_stop(steps, self._counted_positions(step.best, layout, forced)):
                return

    def _counted_positions(self, best: Tensor, layout: Layout, forced: bytes) -> Tensor:
        """[B, L] bool: the positions of each hole up to its end; positions after that do not matter."""
        is_read = torch.zeros(best.shape, dtype=torch.bool)
        for row, ids in enumerate(best.tolist()):
            for number, hole in enumerate(layout.hole_slices):
                healed = len(forced) if number == 0 else 0
                for at in range(hole.start, hole.stop):
                    is_read[row, at] = True
                    data = self._tokenizer.token_bytes[ids[at]][healed:]
                    healed = max(0, healed - len(self._tokenizer.token_bytes[ids[at]]))
                    if ids[at] in self._vocabulary.ends or (self._plan.one_line and b"\n" in data):
                        break
        return is_read

    def _renoise(self, cache: Cache, layout: Layout) -> Iterator[Draft]:
        """Denoise again the positions at which the causal head would write something else, as long as there are
        such."""
        end = self._vocabulary.end_id
        for _ in range(RENOISE_ROUNDS if self._plan.candidates == 1 else 0):
            written, best = self._written[0].tolist(), self._best[0].tolist()
            upto = best.index(end) + 1 if end in best else len(best)
            logits, _ = next_token_logits(self._cached, [*self._prompt.ids, *written], [best[: upto - 1]])
            forced = remaining_forced(self._prompt.forced, written, self._tokenizer)
            spoken = Constraint(self._vocabulary, forced, is_indent_settled=self._prompt.is_indent_settled).apply
            self._passes += 1
            yield replace(self._latest, step=self._passes)
            kept = self._best.clone()
            kept[0, :upto][spoken(logits[None])[0].argmax(-1).cpu() != kept[0, :upto]] = -1
            if bool((kept >= 0).all()):
                return
            kept[0, upto:] = -1  # if the text changes, so may its end
            yield from self._denoise(cache, layout, kept)

    def _draft(self, step: CanvasStep, layout: Layout) -> Draft:
        texts, all_ended = [], True
        for number, hole in enumerate(layout.hole_slices):
            ids = [*self._written[0].tolist(), *step.best[0, hole].tolist()]
            text, ended = self._read(ids, self._forced(number))
            texts.append(text)
            all_ended = all_ended and ended
        shown = [self._tokens(step, hole) for hole in layout.hole_slices]
        confidence = torch.cat([step.confidence[0, hole] for hole in layout.hole_slices])
        return Draft(
            tuple(texts),
            self._passes,
            complete=all_ended,
            score=float(confidence.clamp(min=1e-9).log().mean()),
            tokens=(self._shown + shown[0], *shown[1:]),
            revised=self._revised,
        )

    def _tokens(self, step: CanvasStep, hole: slice) -> tuple[DraftToken, ...]:
        columns = (values[0, hole].tolist() for values in (step.best, step.confidence, step.accepted))
        return tuple(DraftToken(self._tokenizer.decode([i]), c, a) for i, c, a in zip(*columns, strict=True))

    # ------------------------------------------------------- widths and starts

    @property
    def _context(self) -> int:
        return self._checkpoint.network.context_length

    def _forced(self, hole: int) -> bytes:
        return self._prompt.forced if hole == 0 else b""

    def _read(self, ids: list[int], forced: bytes) -> tuple[str, bool]:
        """The text of one hole, and whether it has ended."""
        text, ended = self._vocabulary.read(ids[: self._plan.max_tokens], forced)
        if self._plan.one_line and "\n" in text:
            return text.split("\n", 1)[0], True
        return text, ended

    def _first_width(self, hole: int, start: int) -> int:
        """The canvas (or the part of it) that a hole begins with; `start` tokens have to fit."""
        excerpt, lengths = self._excerpt, sorted(self._policy.canvas_lengths)
        before = (excerpt.prefix, *excerpt.between)[hole].rpartition("\n")[2]
        after = (*excerpt.between, excerpt.suffix)[hole].partition("\n")[0]
        if not self._plan.one_line and excerpt.hole_count == 1:
            wanted = BLOCK_TOKENS
        else:
            wanted = REST_OF_LINE_TOKENS if before.strip() or after.strip() else LINE_TOKENS
        wanted = max(min(wanted, self._plan.max_tokens), start)
        if start > lengths[-1]:
            raise InfillError(f"the text to repair has {start} tokens, the widest canvas {lengths[-1]}; repair less")
        return next((length for length in lengths if length >= wanted), lengths[-1])

    def _start(self) -> list[list[int] | None]:
        """The present text of each hole and its end, as ids; None if nothing is known."""
        texts = self._plan.start
        if texts is None or self._plan.noise_level >= 1.0:
            return [None] * self._excerpt.hole_count
        encoded = [
            self._tokenizer.encode(self._forced(number).decode("utf-8", "replace") + text)
            for number, text in enumerate(texts)
        ]
        return [[*ids, self._vocabulary.end_id] for ids in encoded]

    def _kept(self, layout: Layout, found: Sequence[list[int] | None]) -> Tensor:
        """[1, L], on the host: the known tokens of each hole, and -1 at all other positions."""
        kept = torch.full((1, len(layout.ids)), -1)
        for hole, ids in zip(layout.hole_slices, found, strict=True):
            if ids is not None:
                kept[0, hole.start : hole.start + len(ids)] = torch.tensor(ids)
        return kept

    def _noised(self, layout: Layout, start: list[list[int] | None]) -> Tensor:
        """[1, L], on the host: what is kept of the text to be repaired, -1 where it is drawn again."""
        kept = self._kept(layout, start)
        known = (kept >= 0).nonzero()[:, 1]
        if not len(known):
            return kept
        device = self._cached.device
        if self._sampling.noise.mask_id is None:
            drawn = torch.rand(len(known), generator=self._sampling.generator, device=device).cpu()
            kept[0, known[drawn < self._plan.noise_level]] = -1
        else:  # only masks are told apart from text for certain: they go where the network doubts the text most
            canvas = torch.where(kept >= 0, kept, torch.tensor([layout.ids])).to(device)
            nats = disagreement(self._checkpoint, self._cached, canvas)[0].cpu()
            count = math.ceil(self._plan.noise_level * len(known))
            kept[0, known[nats[0, known].argsort(descending=True)[:count]]] = -1
            self._passes += 1
        return kept


@torch.inference_mode()
def disagreement(checkpoint: Checkpoint, cached: CachedPrompt, canvas: Tensor) -> tuple[Tensor, Tensor]:
    """One noiseless pass over `canvas` [B, L] int64.

    Returns two tensors [B, L]: by how many nats the likeliest token of each position is likelier than the one there,
    float32 (0 if it is the same), and the id of that token, int64.
    """
    network = checkpoint.network
    logits = network.logits(network.decode(canvas, cached.cache))
    log_probabilities = Constraint(checkpoint.format.vocabulary, b"").apply(logits).log_softmax(-1)
    likeliest, best = log_probabilities.max(-1)
    return likeliest - log_probabilities.gather(-1, canvas[..., None])[..., 0], best
