"""Fills of checkpoints that were not trained to end a hole: several widths side by side, and the best is kept.

Each width is a row of one batch of canvases over the same cached prompt. Rows are compared as in PILL (the
training-free part of `Hsu1023/PILL`): half the mean log-probability of the holes' own tokens, and half that of the
first tokens after them. Both are means, so that long fills are not punished for their length. The second half notices a
fill that stops too early or too late, because the suffix is then unlikely. The causal head of the same weights
compares: its probabilities are exact and comparable over widths, and those of the denoiser are not. Whether this picks
well is not known until published weights have been tried.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dgemma_model.checkpoint.contract import Checkpoint
from dgemma_model.decoding.constraint import Constraint
from dgemma_model.decoding.denoised import LINE_TOKENS
from dgemma_model.decoding.plan import FillPlan
from dgemma_model.decoding.prompt_cache import OpenPrompt
from dgemma_model.decoding.sampler import CanvasStep, Sampling, denoise
from dgemma_model.decoding.stopping import AnyOf, NothingLeft, StableAndConfident
from dgemma_model.prompt.format import Layout
from dgemma_model.request import Draft, DraftToken, Excerpt

LEAD_TOKENS = 4
"""How many tokens after the last hole count in the comparison."""


@dataclass(frozen=True, slots=True)
class WidthSearch:
    """Fills holes of several widths at once with one checkpoint."""

    checkpoint: Checkpoint
    opened: OpenPrompt
    excerpt: Excerpt
    plan: FillPlan
    sampling: Sampling

    def drafts(self) -> Iterator[Draft]:
        """Yield after every step the draft of the row that is most certain so far; at last that of the best row.

        The cache holds exactly the prompt, before and after.
        """
        cache, generator, noise = self.opened.cached.cache, self.sampling.generator, self.sampling.noise
        prompt = self.opened.prompt
        constrain = Constraint(self.opened.vocabulary, prompt.forced, is_indent_settled=prompt.is_indent_settled).apply
        layouts = self._layouts()
        pinned = torch.tensor([layout.pinned for layout in layouts])
        given = torch.tensor([layout.ids for layout in layouts], device=generator.device)
        canvases = torch.where(pinned.to(given.device), given, noise.draw(tuple(given.shape), generator))
        config = self.plan.sampler_for(int((~pinned).sum(1).max()))
        stop = AnyOf((NothingLeft(), StableAndConfident(config.stability_threshold, config.confidence_threshold)))
        with torch.inference_mode():
            shared = cache.repeated(len(layouts))
        steps: list[CanvasStep] = []
        drafts = [Draft(texts=("",) * self.excerpt.hole_count, step=0)]
        for step in denoise(self.checkpoint.network, shared, canvases, pinned, config, noise, generator, constrain):
            steps = [*steps[-config.stability_threshold :], step]  # what the stop rule looks at
            drafts = [self._draft(step, row, layout) for row, layout in enumerate(layouts)]
            if stop.should_stop(steps, ~pinned):
                break
            yield max(drafts, key=lambda draft: draft.score)
        yield replace(self._best(drafts), done=True)

    def _layouts(self) -> list[Layout]:
        """A canvas for each width, all of the same length, filled up with end-of-text as answers are in training."""
        count, end = self.excerpt.hole_count, self.opened.vocabulary.end_id
        layouts = [self.checkpoint.format.lay_out(self.excerpt, [width] * count) for width in self._widths()]
        longest = 1 + max(len(layout.ids) for layout in layouts)
        return [replace(layout, ids=layout.ids + [end] * (longest - len(layout.ids))) for layout in layouts]

    def _widths(self) -> list[int]:
        """Widths within what is asked for; the healed token comes on top."""
        most = min(self.plan.max_tokens, LINE_TOKENS) if self.plan.one_line else self.plan.max_tokens
        fitting = [width for width in self.checkpoint.policy.hole_widths if width <= most] or [most]
        return [width + bool(self.opened.prompt.forced) for width in fitting]

    def _draft(self, step: CanvasStep, row: int, layout: Layout) -> Draft:
        texts: list[str] = []
        tokens: list[tuple[DraftToken, ...]] = []
        confidences: list[Tensor] = []
        for number, hole in enumerate(layout.hole_slices):
            ids = step.best[row, hole].tolist()
            text, _ = self.opened.vocabulary.read(ids, b"" if number else self.opened.prompt.forced)
            texts.append(text.split("\n", 1)[0] if self.plan.one_line else text)
            confidence, accepted = step.confidence[row, hole], step.accepted[row, hole].tolist()
            confidences.append(confidence)
            shown = zip(ids, confidence.tolist(), accepted, strict=True)
            tokens.append(tuple(DraftToken(self.opened.vocabulary.tokenizer.decode([i]), c, a) for i, c, a in shown))
        score = float(torch.cat(confidences).clamp(min=1e-9).log().mean())
        return Draft(tuple(texts), step.index, complete=True, score=score, tokens=tuple(tokens))

    # --------------------------------------------------------------- comparing

    @torch.inference_mode()
    def _best(self, drafts: list[Draft]) -> Draft:
        """The draft whose texts the causal head finds likeliest, its score the mean log-probability of its tokens."""
        distinct = list({draft.texts: draft for draft in drafts}.values())
        network, prompt, cache = self.checkpoint.network, self.opened.prompt, self.opened.cached.cache
        after = self.checkpoint.format.after(self.excerpt)[:LEAD_TOKENS]
        texts = [self._ids_of(draft) for draft in distinct]
        longest = max(len(ids) for ids, _ in texts)
        filler = [self.opened.vocabulary.end_id] * longest
        rows = [[prompt.ids[-1], *ids, *after, *filler[len(ids) :]] for ids, _ in texts]
        shared = cache.repeated(len(rows))
        shared.crop(len(prompt.ids) - 1)
        device = network.device
        hidden = network.encode(torch.tensor(rows, device=device), shared)  # causal: what pads the rows is unseen
        best, best_criterion = distinct[0], -float("inf")
        for draft, (ids, own), row in zip(distinct, texts, hidden, strict=True):
            targets = torch.tensor([*ids, *after], device=device)
            log_probabilities = network.logits(row[: len(targets)]).log_softmax(-1)
            each = log_probabilities.gather(-1, targets[:, None])[:, 0].tolist()
            lead = each[len(ids) :]
            inner = [each[at] for at in own] or lead
            score, criterion = _mean(inner), (_mean(inner) + _mean(lead)) / 2
            if criterion > best_criterion:
                best, best_criterion = replace(draft, score=score), criterion
        return best

    def _ids_of(self, draft: Draft) -> tuple[list[int], list[int]]:
        """The ids from the first hole to the end of the last one, and the indices of those that are in holes."""
        tokenizer, ids, own = self.opened.vocabulary.tokenizer, list[int](), list[int]()
        for number, text in enumerate(draft.texts):
            ids += tokenizer.encode(self.excerpt.between[number - 1]) if number else []
            forced = b"" if number else self.opened.prompt.forced
            size = 0
            for token in tokenizer.encode(forced.decode() + text):
                size += len(tokenizer.token_bytes[token])
                if size > len(forced):
                    own.append(len(ids))
                ids.append(token)
        return ids, own


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
