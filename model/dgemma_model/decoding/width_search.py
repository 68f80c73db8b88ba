"""Fills of checkpoints that were not trained to end a hole: several widths side by side, and the best is kept.

Each width is a row of one batch of canvases over the same cached prompt. Rows are compared after PILL (facts: the
training-free part of `Hsu1023/PILL`): half the mean log-probability of the holes' own tokens, half that of the first
tokens of what follows them. Both are means, so that long fills are not punished for their length; the second half is
what notices a fill that stops too early or too late, because then the suffix comes as a surprise. The judge is the
causal head of the same weights: its probabilities are exact, and comparable over widths, which those of the denoiser
are not. That this picks well is a hypothesis until published weights have been tried.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dgemma_model.checkpoint.config import SamplerConfig
from dgemma_model.decoding.sampler import CanvasStep, Noise, denoise
from dgemma_model.decoding.stopping import AnyOf, NothingLeft, StableAndConfident
from dgemma_model.network.diffusion_gemma import Cache, Network
from dgemma_model.network.served import ServedNetwork
from dgemma_model.prompt.canvas import Layout, Prompt, read_fill
from dgemma_model.prompt.chat import ChatFormat
from dgemma_model.prompt.tokenizer import Tokenizer
from dgemma_model.request import Draft, DraftToken, FillRequest

LEAD_TOKENS = 4
"""How many tokens behind the last hole count in the comparison."""


@dataclass(frozen=True, slots=True)
class WidthSearch:
    """Fills holes of several widths at once with one checkpoint."""

    network: Network | ServedNetwork
    tokenizer: Tokenizer
    chat: ChatFormat
    config: SamplerConfig
    noise: Noise
    hole_widths: Sequence[int]

    def fill(
        self,
        request: FillRequest,
        prompt: Prompt,
        cache: Cache,
        generator: torch.Generator,
        constrain: Callable[[Tensor], Tensor],
    ) -> Iterator[Draft]:
        """Yield a draft after every step, that of the row most certain so far; the last one is the best row's.

        `cache` holds exactly `prompt`, and does so afterwards. `constrain` is that of `denoise`.
        """
        layouts = self.chat.lay_out(request.excerpt, self._widths(request, prompt))
        pinned = torch.tensor([layout.pinned for layout in layouts], device=generator.device)
        given = torch.tensor([layout.ids for layout in layouts], device=generator.device)
        canvases = torch.where(pinned, given, self.noise.draw(tuple(given.shape), generator))
        config = self.config
        stop = AnyOf((NothingLeft(), StableAndConfident(config.stability_threshold, config.confidence_threshold)))
        with torch.inference_mode():
            shared = cache.repeated(len(layouts))
        steps: list[CanvasStep] = []
        drafts = [Draft(texts=("",) * request.excerpt.hole_count, step=0)]
        for step in denoise(self.network, shared, canvases, pinned, config, self.noise, generator, constrain):
            steps = [*steps[-config.stability_threshold :], step]  # what the stop rule looks at
            drafts = [self._draft(request, prompt, step, row, layout) for row, layout in enumerate(layouts)]
            if stop.should_stop(steps, ~pinned):
                break
            yield max(drafts, key=lambda draft: draft.score)
        yield replace(self._best(request, prompt, cache, drafts), done=True)

    def _widths(self, request: FillRequest, prompt: Prompt) -> list[int]:
        """Widths within what is asked for; the healed token comes on top."""
        fitting = [width for width in self.hole_widths if width <= request.max_tokens] or [request.max_tokens]
        return [width + bool(prompt.forced) for width in fitting]

    def _draft(self, request: FillRequest, prompt: Prompt, step: CanvasStep, row: int, layout: Layout) -> Draft:
        texts: list[str] = []
        tokens: list[tuple[DraftToken, ...]] = []
        confidences: list[Tensor] = []
        for number, hole in enumerate(layout.hole_slices):
            ids = step.best[row, hole].tolist()
            text, _ = read_fill(ids, b"" if number else prompt.forced, self.tokenizer)
            texts.append(text.split("\n", 1)[0] if request.one_line else text)
            confidence, accepted = step.confidence[row, hole], step.accepted[row, hole].tolist()
            confidences.append(confidence)
            shown = zip(ids, confidence.tolist(), accepted, strict=True)
            tokens.append(tuple(DraftToken(self.tokenizer.decode([i]), c, a) for i, c, a in shown))
        score = float(torch.cat(confidences).clamp(min=1e-9).log().mean())
        return Draft(tuple(texts), step.index, complete=True, score=score, tokens=tuple(tokens))

    # --------------------------------------------------------------- comparing

    @torch.inference_mode()
    def _best(self, request: FillRequest, prompt: Prompt, cache: Cache, drafts: list[Draft]) -> Draft:
        """The draft whose texts the causal head finds likeliest, its score the mean log-probability of its tokens."""
        distinct = list({draft.texts: draft for draft in drafts}.values())
        after = self.chat.tail(request.excerpt)[:LEAD_TOKENS]
        readings = [self._reading(request, prompt, draft) for draft in distinct]
        longest = max(len(ids) for ids, _ in readings)
        filler = [self.tokenizer.end_id] * longest
        rows = [[prompt.ids[-1], *ids, *after, *filler[len(ids) :]] for ids, _ in readings]
        shared = cache.repeated(len(rows))
        shared.crop(len(prompt.ids) - 1)
        device = self.network.device
        hidden = self.network.encode(torch.tensor(rows, device=device), shared)  # causal: what pads the rows is unseen
        best, best_criterion = distinct[0], -float("inf")
        for draft, (ids, own), row in zip(distinct, readings, hidden, strict=True):
            said = torch.tensor([*ids, *after], device=device)
            log_probabilities = self.network.logits(row[: len(said)]).log_softmax(-1)
            each = log_probabilities.gather(-1, said[:, None])[:, 0].tolist()
            lead = each[len(ids) :]
            inner = [each[at] for at in own] or lead
            score, criterion = _mean(inner), (_mean(inner) + _mean(lead)) / 2
            if criterion > best_criterion:
                best, best_criterion = replace(draft, score=score), criterion
        return best

    def _reading(self, request: FillRequest, prompt: Prompt, draft: Draft) -> tuple[list[int], list[int]]:
        """Ids from the first hole to the end of the last one, and which of them are the holes' own."""
        tokenizer, ids, own = self.tokenizer, list[int](), list[int]()
        for number, text in enumerate(draft.texts):
            ids += tokenizer.encode(request.excerpt.between[number - 1]) if number else []
            forced = b"" if number else prompt.forced
            size = 0
            for token in tokenizer.encode(forced.decode() + text):
                size += len(tokenizer.token_bytes[token])
                if size > len(forced):
                    own.append(len(ids))
                ids.append(token)
        return ids, own


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
