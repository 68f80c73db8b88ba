"""The face of the model: load a checkpoint, fill holes, judge texts. All it takes and gives is plain data (request.py).

A fill's path: the prompt is encoded behind what is cached of it (`prompt_cache`); then

- `verified` writes what the causal head would write token by token, with drafts to take fewer passes; or
- `denoised` denoises one canvas with all the holes;

whichever the request or else the checkpoint's policy says. A checkpoint that was not trained to fill is asked in a chat
(`chat`), with holes of several widths side by side (`widths`). Several holes are filled in one canvas, or one after the
other. Drafts come out as they are made, within the time asked for (`anytime`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import torch

from dgemma_model.checkpoint import hub
from dgemma_model.checkpoint import load as checkpoints
from dgemma_model.checkpoint.load import Checkpoint, CheckpointError, Progress
from dgemma_model.decoding import beams, review, verified
from dgemma_model.decoding.causal import fill_log_probabilities, ranked
from dgemma_model.decoding.constraint import Constraint
from dgemma_model.decoding.denoised import LINE_TOKENS, DenoisedFill
from dgemma_model.decoding.line_choice import (
    SIMILAR_LINES,
    TEXTS_BETWEEN,
    LineCandidates,
    is_line_begun,
    judged,
    readings,
)
from dgemma_model.decoding.prompt_cache import CachedPrompt, PromptCaches
from dgemma_model.decoding.sampler import Noise, Sampling
from dgemma_model.decoding.time_budget import within_budget
from dgemma_model.decoding.width_search import WidthSearch
from dgemma_model.network.kernels import fastest_products
from dgemma_model.project.copy_model import CopyModel
from dgemma_model.project.judge import ScoredText
from dgemma_model.project.similar_lines import similar_lines
from dgemma_model.project.text_index import TextIndex
from dgemma_model.project.texts_between import texts_between
from dgemma_model.prompt.canvas import Prompt, encode_prompt
from dgemma_model.prompt.chat import ChatFormat
from dgemma_model.request import Doubt, Draft, Excerpt, FillRequest, InfillError, check

CACHE_BYTES = {"cpu": 128 * 2**20, "cuda": 2 * 2**30}
"""Budget for the keys and values of prompts, by kind of device; a prompt of the embedded checkpoint takes 3 MiB."""


NEW_CHARS = 16_000
"""Text elsewhere that a fill reads when it sees it for the first time, in code points: some 20 ms."""


class Infiller:
    """A loaded checkpoint that fills holes. Not for several threads at once: one thread owns it."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        device: torch.device,
        products: torch.dtype = torch.float32,
        *,
        cache_bytes: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`products` is the dtype of the operands of matrix products (`served.ServedNetwork`), `cache_bytes` how
        much may be kept of prompts; `clock` tells seconds."""
        self._checkpoint = checkpoint.served(products)
        network = self._checkpoint.network
        self._tokenizer = checkpoint.tokenizer
        self._policy = checkpoint.config.policy
        self._device = device
        self._clock = clock
        self._noise = Noise(
            network.config.vocab_size, self._tokenizer.mask_id if self._policy.noise == "mask" else None
        )
        budget = cache_bytes if cache_bytes is not None else CACHE_BYTES.get(device.type, CACHE_BYTES["cuda"])
        self._caches = PromptCaches(network, budget)
        self._project = TextIndex(self._tokenizer)
        self._chat = checkpoint.chat
        self.name = self._policy.name or hub.name_of(checkpoint.directory)
        self.device = str(device)
        self.languages = frozenset(self._policy.languages) if self._policy.languages is not None else None
        self.threshold = self._policy.threshold
        self.prompt_tokens = min(self._policy.prompt_tokens, network.config.max_position_embeddings // 2)

    @classmethod
    def load(
        cls,
        checkpoint: str | None = None,
        device: str | None = None,
        *,
        cache_bytes: int | None = None,
        progress: Progress = lambda share: None,
    ) -> Infiller:
        """Load a checkpoint, by default the embedded one, onto a device, by default the GPU if there is one.

        `checkpoint` is a directory, or a name on the Hugging Face hub such as "google/diffusiongemma-26B-A4B-it",
        which is downloaded once. `cache_bytes` is what may be kept of prompts; `progress` is told which share of the
        weights has been read.

        Raises:
            CheckpointError: the checkpoint or the device cannot be used; the message is for users.
        """
        place = usable_device(device)
        dtype = torch.bfloat16 if place.type == "cuda" else torch.float32
        loaded = checkpoints.load(checkpoints.find(checkpoint), place, dtype, progress)
        return cls(loaded, place, fastest_products(place), cache_bytes=cache_bytes)

    def fill(self, request: FillRequest) -> Iterator[Draft]:
        """Yield a draft after every pass, the last one with `done` set; stop reading to stop the work.

        While a long prompt is read, drafts are empty and their `step` is 0.

        Raises:
            InfillError: the request makes no sense or does not fit the model, or the device failed.
        """
        check(request)
        drafts = self._fill(request)
        if request.budget_ms is not None:
            drafts = within_budget(drafts, request.budget_ms, request.excerpt, self._clock)
        yield from drafts

    def review(self, excerpt: Excerpt, span: str, min_nats: float = review.DOUBT_NATS) -> list[Doubt]:
        """Tokens of `span`, which stands in the (single) hole of `excerpt`, that one noiseless pass strongly disagrees
        with: by at least `min_nats`.

        Raises:
            InfillError: the excerpt has several holes, or the device failed.
        """
        with self._prompted(excerpt) as (cached, prompt):
            return list(review.doubts(self._checkpoint, cached, prompt, span, min_nats))

    def score(self, excerpt: Excerpt, texts: Sequence[str]) -> list[float]:
        """Log-likelihood, in nats, of each text and its end in the (single) hole of `excerpt`, under the causal head.

        Raises:
            InfillError: the excerpt has several holes, a text is too long for the context, or the device failed.
        """
        if not texts:
            return []
        with self._prompted(excerpt) as (cached, prompt):
            return [float(read.sum()) for read in fill_log_probabilities(cached, prompt, texts, self._tokenizer)]

    def count_tokens(self, text: str) -> int:
        """How many tokens `text` takes in a prompt."""
        return len(self._tokenizer.encode(text))

    @property
    def verifies(self) -> bool:
        """Whether one hole is filled as the causal head would fill it, by default."""
        return self._policy.verify and self._chat is None

    @property
    def uses_project_text(self) -> bool:
        """Whether fills make use of `FillRequest.project_text` by default."""
        return self._policy.verify and self._policy.copy_weight > 0

    def index_ahead(self, texts: Sequence[str]) -> None:
        """Read `FillRequest.project_text` ahead, all of it; a fill itself reads only a little that is new."""
        self._project.read(texts)

    def considered(self, request: FillRequest) -> list[ScoredText]:
        """What the judge is told of each text for the (single) hole of one line, the model's own first.

        Raises:
            InfillError: see `fill`.
        """
        check(request)
        found = list[ScoredText]()
        for _ in self._fill_verified(request, found):
            pass
        return found

    # ------------------------------------------------------------------ fills

    def _fill(self, request: FillRequest) -> Iterator[Draft]:
        """All the ways to fill: several holes at once or one by one, verified or denoised."""
        together = self._policy.together if request.together is None else request.together
        verify = self._policy.verify if request.verify is None else request.verify
        if self._chat is not None:
            yield from self._fill_widths(request, self._chat)
        elif request.excerpt.hole_count > 1 and not together:
            yield from self._fill_one_by_one(request)
        elif request.excerpt.hole_count == 1 and verify and request.start is None:
            yield from self._fill_verified(request)
        else:
            yield from self._fill_denoised(request)

    def _fill_verified(self, request: FillRequest, considered: list[ScoredText] | None = None) -> Iterator[Draft]:
        """`considered` takes what the judge is told."""
        excerpt, sampling = request.excerpt, self._sampling(request)
        copy_weight = self._policy.copy_weight if request.copy_weight is None else request.copy_weight
        elsewhere = self._project.read(request.project_text, NEW_CHARS) if copy_weight else []
        draft = Draft(("",), 0, tokens=((),))
        with self._borrowed(excerpt) as (cached, prompt):
            for _ in cached.read_most_of(prompt.ids):
                yield draft
            suggestions = partial(
                CopyModel,
                self._tokenizer,
                prompt.text,
                elsewhere,
                weight=copy_weight,
                before=excerpt.prefix,
                after=excerpt.suffix,
                one_line=request.one_line,
                forced=prompt.forced,
            )
            for draft in verified.fill(self._checkpoint, cached, prompt, request, sampling, suggestions()):
                yield draft
            others, step = list[str](), draft.step
            if request.candidates > 1:
                cached.crop(len(prompt.ids))
                denoised = DenoisedFill(self._checkpoint, cached, prompt, request, sampling)
                for other in denoised.drafts():
                    draft = replace(draft, step=step + other.step)
                    yield draft
                others += denoised.texts()
            if request.one_line and copy_weight:
                around = excerpt.prefix, excerpt.suffix, elsewhere
                alone = list[str]()
                if is_line_begun(excerpt):
                    for found in beams.search(cached, prompt, self._tokenizer):
                        alone, draft = found, replace(draft, step=draft.step + 1)
                        yield draft
                else:
                    cached.crop(len(prompt.ids) - 1)
                    other = draft
                    for other in verified.fill(
                        self._checkpoint, cached, prompt, request, sampling, suggestions(weight=0.0)
                    ):
                        yield replace(draft, step=draft.step + other.step)
                    alone, draft = [other.text], replace(draft, step=draft.step + other.step)
                similar, between = similar_lines(*around, SIMILAR_LINES), texts_between(*around, TEXTS_BETWEEN)
                texts = LineCandidates([draft.text, *others], similar, between, alone)
                options = readings(cached, prompt, texts, around, self._tokenizer)
                draft = judged(draft, options, request)
                if considered is not None:
                    considered += options
            else:
                draft = ranked(cached, prompt, draft, others, request, self._tokenizer)
            yield replace(draft, done=True)

    def _fill_denoised(self, request: FillRequest) -> Iterator[Draft]:
        count = request.excerpt.hole_count
        draft = Draft(("",) * count, 0, tokens=((),) * count)
        with self._borrowed(request.excerpt) as (cached, prompt):
            for _ in cached.read_all_of(prompt.ids):
                yield draft
            denoised = DenoisedFill(self._checkpoint, cached, prompt, request, self._sampling(request))
            for draft in denoised.drafts():
                yield draft
            if count == 1:
                cached.crop(len(prompt.ids))
                draft = ranked(cached, prompt, draft, denoised.texts(), request, self._tokenizer)
                score = fill_log_probabilities(
                    cached, prompt, [draft.text], self._tokenizer, one_line=request.one_line
                )[0].mean()
                draft = replace(draft, score=float(score))
            yield replace(draft, done=True)

    def _fill_widths(self, request: FillRequest, chat: ChatFormat) -> Iterator[Draft]:
        sampling, count = self._sampling(request), request.excerpt.hole_count
        if request.one_line:
            request = replace(request, max_tokens=min(request.max_tokens, LINE_TOKENS))
        search = WidthSearch(
            self._checkpoint.network, self._tokenizer, chat, sampling.config, sampling.noise, self._policy.hole_widths
        )
        with self._borrowed(request.excerpt) as (cached, prompt):
            for _ in cached.read_all_of(prompt.ids):
                yield Draft(("",) * count, 0, tokens=((),) * count)
            constrain = Constraint(self._tokenizer, prompt.forced, is_indent_settled=prompt.is_indent_settled).apply
            yield from search.fill(request, prompt, cached.cache, sampling.generator, constrain)

    def _fill_one_by_one(self, request: FillRequest) -> Iterator[Draft]:
        """Each hole from left to right, with what is filled before it as text and without the holes behind it."""
        excerpt = request.excerpt
        between = (*excerpt.between, "")
        done = [Draft(("",), 0, tokens=((),))] * excerpt.hole_count
        prefix = excerpt.prefix
        for hole in range(excerpt.hole_count):
            rest = "".join(between[hole:]) + excerpt.suffix
            start = None if request.start is None else request.start[hole : hole + 1]
            one = replace(request, excerpt=replace(excerpt, prefix=prefix, suffix=rest, between=()), start=start)
            for done[hole] in self._fill(one):
                yield Draft(
                    tuple(draft.text for draft in done),
                    sum(draft.step for draft in done),
                    done=all(draft.done for draft in done),
                    complete=all(draft.complete for draft in done),
                    score=sum(draft.score for draft in done[: hole + 1]) / (hole + 1),
                    tokens=tuple(draft.tokens[0] for draft in done),
                    revised=sum(draft.revised for draft in done),
                )
            prefix += done[hole].text + between[hole]

    def _sampling(self, request: FillRequest) -> Sampling:
        config = self._checkpoint.config.sampler
        if request.max_denoising_steps is not None:
            config = replace(config, max_denoising_steps=request.max_denoising_steps)
        if request.entropy_bound is not None:
            config = replace(config, entropy_bound=request.entropy_bound)
        return Sampling(config, self._noise, torch.Generator(self._device).manual_seed(request.seed))

    # ---------------------------------------------------------------- prompts

    @contextmanager
    def _borrowed(self, excerpt: Excerpt) -> Iterator[tuple[CachedPrompt, Prompt]]:
        """The excerpt's prompt, and what is cached of it. What fails on the device becomes an `InfillError`."""
        if self._chat is None:
            prompt = encode_prompt(excerpt, self._tokenizer, self.prompt_tokens)
        else:
            prompt = self._chat.encode_prompt(excerpt, self.prompt_tokens)
        try:
            with self._caches.borrowed(prompt.ids) as cached:
                yield cached, prompt
        except RuntimeError as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise InfillError(f"the model failed on {self.device}: {reason}; the next fill starts afresh") from error

    @contextmanager
    def _prompted(self, excerpt: Excerpt) -> Iterator[tuple[CachedPrompt, Prompt]]:
        """The prompt of an excerpt with one hole, all of it cached."""
        if excerpt.hole_count != 1:
            raise InfillError(f"one hole at a time can be judged, not {excerpt.hole_count}")
        with self._borrowed(excerpt) as (cached, prompt):
            for _ in cached.read_all_of(prompt.ids):
                pass
            yield cached, prompt


def usable_device(name: str | None) -> torch.device:
    """The device of that name, by default the GPU if there is one.

    Raises:
        CheckpointError: it cannot be used.
    """
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:
        raise CheckpointError(f"device {name!r} cannot be used: {str(error).splitlines()[0]}; try 'cpu'") from error
    return device
