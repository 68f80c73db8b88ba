"""The face of the model: load a checkpoint, fill holes, judge texts. All it takes and gives is plain data (request.py).

A fill's path: request and policy become a plan (`plan`). The excerpt becomes a prompt (the checkpoint's
`PromptFormat`). Of the prompt, only what is not cached is encoded (`prompt_cache`). Then the plan's way writes:

- `verified` writes what the causal head would write token by token; drafts save passes. For a line, `line_choice`
  also considers other texts.
- `denoised` denoises one canvas with all the holes.
- `width_search` denoises canvases of several widths, for checkpoints that were not trained to end a hole.

Drafts are yielded as they are made, within the time that the request allows (`time_budget`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch

from dgemma_model.checkpoint import load as checkpoints
from dgemma_model.checkpoint import selection
from dgemma_model.checkpoint.config import Quantize
from dgemma_model.checkpoint.contract import Checkpoint, Progress
from dgemma_model.checkpoint.errors import CheckpointError
from dgemma_model.checkpoint.weights import free_memory
from dgemma_model.decoding import beams, review, verified
from dgemma_model.decoding.causal import fill_log_probabilities, ranked
from dgemma_model.decoding.denoised import DenoisedFill
from dgemma_model.decoding.drafting import Drafter, drafters_for
from dgemma_model.decoding.end_probe import END_FIGURES, EndFigures, EndProbe
from dgemma_model.decoding.fill_end import FillEnd
from dgemma_model.decoding.line_choice import LineChoice
from dgemma_model.decoding.plan import FillPlan, plan_for
from dgemma_model.decoding.prompt_cache import OpenPrompt, PromptCaches
from dgemma_model.decoding.sampler import Noise, Sampling
from dgemma_model.decoding.time_budget import within_budget
from dgemma_model.decoding.width_search import WidthSearch
from dgemma_model.network.kernels import fastest_products
from dgemma_model.network.passes import native
from dgemma_model.project.copy_model import CopyModel
from dgemma_model.project.judge import FIGURES, Judge, ScoredText
from dgemma_model.project.text_index import IndexedText, TextIndex
from dgemma_model.request import DOUBT_NATS, Check, Doubt, Draft, Excerpt, FillRequest, InfillError, Places, check

CACHE_BYTES = {"cpu": 128 * 2**20, "cuda": 2 * 2**30}
"""Most bytes of keys and values of prompts that are kept, by kind of device; a prompt of the embedded checkpoint takes
3 MiB."""


NEW_CHARS = 16_000
"""Most code points of new project text that one fill indexes; this takes some 20 ms."""


class Infiller:
    """A loaded checkpoint that fills holes. Not for several threads at once: one thread owns it."""

    sends_text = False
    """Nothing that it is asked leaves this process."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        device: torch.device,
        products: torch.dtype = torch.float32,
        *,
        cache_bytes: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`products` is the dtype of the operands of matrix products (`served.ServedNetwork`). `cache_bytes` bounds the
        keys and values of prompts that are kept. `clock` tells seconds."""
        self._checkpoint = checkpoint.served(products)
        network = self._checkpoint.network
        self._tokenizer = checkpoint.format.vocabulary.tokenizer
        self._policy = checkpoint.policy
        if self._policy.ends is not None and len(self._policy.ends) != 2 * END_FIGURES:
            raise CheckpointError(f"{checkpoint.directory}: ends must be {2 * END_FIGURES} numbers in its dgemma.json")
        self._device = device
        self._clock = clock
        self._noise = Noise(network.vocab_size, checkpoint.format.mask_id)
        budget = kept_bytes(device, free_memory(device)) if cache_bytes is None else cache_bytes
        self._caches = PromptCaches(network, budget)
        self._project = TextIndex(self._tokenizer)
        self.name = self._policy.name or selection.name_of(checkpoint.directory)
        self.device = str(device)
        self.languages = frozenset(self._policy.languages) if self._policy.languages is not None else None
        self.threshold = self._policy.threshold
        self.prompt_tokens = min(self._policy.prompt_tokens, network.context_length // 2)

    @classmethod
    def load(
        cls,
        checkpoint: str | None = None,
        device: str | None = None,
        *,
        quantize: Quantize | None = None,
        cache_bytes: int | None = None,
        progress: Progress = lambda share: None,
    ) -> Infiller:
        """Load a checkpoint, by default the best one that is here, onto a device, by default the GPU if there is one.

        `checkpoint` is whatever `selection.find` understands; nothing is downloaded. `quantize` says in how many bits
        experts are held, by default in as many as fit. `cache_bytes` is what may be kept of prompts; `progress` is told
        which share of the weights has been read.

        Raises:
            CheckpointError: the checkpoint or the device cannot be used; the message is for users.
        """
        place = usable_device(device)
        dtype = torch.bfloat16 if place.type == "cuda" else torch.float32
        loaded = checkpoints.load(selection.find(checkpoint, device), place, dtype, progress, quantize)
        return cls(loaded, loaded.network.device, fastest_products(place), cache_bytes=cache_bytes)

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

    @property
    def reviewer(self) -> Infiller | None:
        """This, where the words that `review` doubts are wrong often enough to tell."""
        return self if self._policy.reviews else None

    def review(
        self, excerpt: Excerpt, span: str, words: Places, others: Collection[str], min_nats: float = DOUBT_NATS
    ) -> Iterator[list[Doubt]]:
        """Those of `words`, places in code points of `span`, that the model would replace by one of `others`: with it
        the text is at least `min_nats` likelier. `span` is the text in the (single) hole of `excerpt`.

        Yields after each of its pieces; stop reading to stop the work.

        Raises:
            InfillError: the excerpt has several holes, or the device failed.
        """
        return review.reviewed(self._prompted, self.count_tokens, excerpt, span, words, others, min_nats)

    def score(self, excerpt: Excerpt, texts: Sequence[str]) -> list[float]:
        """Log-likelihood, in nats, of each text and its end in the (single) hole of `excerpt`, under the causal head.

        Raises:
            InfillError: the excerpt has several holes, a text is too long for the context, or the device failed.
        """
        if not texts:
            return []
        with self._prompted(excerpt) as opened:
            return [float(read.sum()) for read in fill_log_probabilities(opened, texts)]

    def count_tokens(self, text: str) -> int:
        """How many tokens `text` takes in a prompt."""
        return len(self._tokenizer.encode(text))

    @property
    def uses_project_text(self) -> bool:
        """Whether fills make use of `FillRequest.project_text` by default."""
        return self._policy.verify and (self._policy.copy_weight > 0 or self._policy.reads_project)

    def index_ahead(self, texts: Sequence[str]) -> None:
        """Index all of `FillRequest.project_text` now; a fill itself indexes only a little new text."""
        self._project.read(texts)

    def considered(self, request: FillRequest) -> list[ScoredText]:
        """What the judge knows of each text for the (single) hole of one line, the model's own text first.

        Raises:
            InfillError: see `fill`.
        """
        check(request)
        plan = self._plan(request)
        project = self._project.read(request.project_text, NEW_CHARS)
        with self._opened(request.excerpt) as opened:
            for _ in opened.cached.read_most_of(opened.prompt.ids):
                pass
            choice = self._choice(opened, request, plan, project, Judge((0.0,) * FIGURES))
            branches = choice.branch_texts()
            *_, written = self._written(opened, request.excerpt, plan, project, plan.copy_weight, branches)
            return choice.considered(written)

    # ------------------------------------------------------------------ fills

    def _fill(self, request: FillRequest) -> Iterator[Draft]:
        """Dispatch to the way that the plan names."""
        plan = self._plan(request)
        if plan.way == "one_by_one":
            return self._fill_one_by_one(request)
        if plan.way == "verified":
            return self._fill_verified(request, plan)
        return self._fill_canvases(request.excerpt, plan)

    def _fill_verified(self, request: FillRequest, plan: FillPlan) -> Iterator[Draft]:
        excerpt = request.excerpt
        project = self._project.read(request.project_text, NEW_CHARS) if plan.reads_project else []
        draft = Draft(("",), 0, tokens=((),))
        with self._opened(excerpt) as opened:
            for _ in opened.cached.read_most_of(opened.prompt.ids):
                yield draft
            choice = self._line_choice(opened, request, plan, project)
            branches = None if choice is None else choice.branch_texts()
            for draft in self._written(opened, excerpt, plan, project, plan.copy_weight, branches):
                yield draft
            others, step = list[str](), draft.step
            if plan.candidates > 1 and not plan.denoises:
                opened.rewind()
                for texts in beams.search(opened) if plan.one_line else ():
                    others, draft = texts, replace(draft, step=draft.step + 1, check=Check())
                    yield draft
            elif plan.candidates > 1:
                opened.rewind()
                denoised = DenoisedFill(self._checkpoint, opened, excerpt, plan, self._sampling(plan))
                for other in denoised.drafts():
                    draft = replace(draft, step=step + other.step, check=Check())
                    yield draft
                others += denoised.texts()
            if choice is None:
                draft = ranked(opened, plan, draft, others)
            else:
                written = draft
                for draft in choice.drafts(written, others):
                    yield draft
            yield replace(draft, done=True)

    def _written(
        self,
        opened: OpenPrompt,
        excerpt: Excerpt,
        plan: FillPlan,
        project: Sequence[IndexedText],
        copy_weight: float,
        branches: verified.BranchTexts | None = None,
    ) -> Iterator[Draft]:
        """What the causal head writes; copies are mixed in by `copy_weight`. The texts of `branches` are read, too."""

        def start() -> tuple[CopyModel, list[Drafter]]:
            copy_model = CopyModel(
                opened.vocabulary,
                opened.prompt.text,
                project,
                weight=copy_weight,
                weights=self._policy.copies,
                before=excerpt.prefix,
                after=excerpt.suffix,
                one_line=plan.one_line,
                forced=opened.prompt.forced,
            )
            sampling = self._sampling(plan)
            return copy_model, drafters_for(plan, self._checkpoint, opened, sampling, copy_model.copies)

        before, after = excerpt.prefix, excerpt.suffix
        end = FillEnd.of(before, after, one_line=plan.one_line) if plan.ends_by_rules else None
        probe = None
        if self._policy.ends is not None and (not plan.one_line or after.partition("\n")[0].strip()):
            probe = EndProbe(self._policy.ends, EndFigures(before, after, opened.vocabulary))
        return verified.fill(opened, plan, start, end, probe, branches)

    def _line_choice(
        self, opened: OpenPrompt, request: FillRequest, plan: FillPlan, project: Sequence[IndexedText]
    ) -> LineChoice | None:
        """What chooses among texts for a line; None if the likeliest text is taken."""
        if not plan.chooses_line or self._policy.judge is None:
            return None
        return self._choice(opened, request, plan, project, Judge(self._policy.judge))

    def _choice(
        self,
        opened: OpenPrompt,
        request: FillRequest,
        plan: FillPlan,
        project: Sequence[IndexedText],
        judge: Judge,
    ) -> LineChoice:
        def alone() -> Iterator[Draft]:
            return self._written(opened, request.excerpt, plan, project, 0.0)

        return LineChoice(
            opened,
            plan,
            request.excerpt,
            project,
            project_chars=sum(map(len, request.project_text)),
            write_alone=alone if plan.copy_weight else None,
            judge=judge,
        )

    def _fill_canvases(self, excerpt: Excerpt, plan: FillPlan) -> Iterator[Draft]:
        """Fills that denoise: one canvas with all the holes, or canvases of several widths."""
        draft = Draft(("",) * excerpt.hole_count, 0, tokens=((),) * excerpt.hole_count)
        with self._opened(excerpt) as opened:
            for _ in opened.cached.read_all_of(opened.prompt.ids):
                yield draft
            if plan.way == "by_width":
                yield from WidthSearch(self._checkpoint, opened, excerpt, plan, self._sampling(plan)).drafts()
                return
            denoised = DenoisedFill(self._checkpoint, opened, excerpt, plan, self._sampling(plan))
            for draft in denoised.drafts():
                yield draft
            if excerpt.hole_count == 1:
                opened.rewind()
                draft = ranked(opened, plan, draft, denoised.texts())
                score = fill_log_probabilities(opened, [draft.text], one_line=plan.one_line)[0].mean()
                draft = replace(draft, score=float(score))
            yield replace(draft, done=True)

    def _fill_one_by_one(self, request: FillRequest) -> Iterator[Draft]:
        """Fill each hole from left to right. Earlier fills are text to it, and later holes are left out."""
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
                    check=done[hole].check,
                    revised=sum(draft.revised for draft in done),
                )
            prefix += done[hole].text + between[hole]

    def _plan(self, request: FillRequest) -> FillPlan:
        checkpoint = self._checkpoint
        return plan_for(
            request,
            self._policy,
            checkpoint.sampler,
            ends_holes=checkpoint.format.ends_holes,
            has_drafter=checkpoint.drafter is not None,
        )

    def _sampling(self, plan: FillPlan) -> Sampling:
        return Sampling(plan.sampler, self._noise, torch.Generator(self._device).manual_seed(plan.seed))

    # ---------------------------------------------------------------- prompts

    @contextmanager
    def _opened(self, excerpt: Excerpt) -> Iterator[OpenPrompt]:
        """The excerpt's prompt and its cached beginning. Errors of the device become an `InfillError`."""
        prompt = self._checkpoint.format.encode(excerpt, self.prompt_tokens)
        try:
            with self._caches.borrowed(prompt.ids) as cached:
                yield OpenPrompt(cached, prompt, self._checkpoint.format.vocabulary)
        except RuntimeError as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise InfillError(f"the model failed on {self.device}: {reason}; the next fill starts afresh") from error

    @contextmanager
    def _prompted(self, excerpt: Excerpt) -> Iterator[OpenPrompt]:
        """The prompt of an excerpt with one hole, all of it cached."""
        if excerpt.hole_count != 1:
            raise InfillError(f"one hole at a time can be judged, not {excerpt.hole_count}")
        with self._opened(excerpt) as opened:
            for _ in opened.cached.read_all_of(opened.prompt.ids):
                pass
            yield opened


def kept_bytes(device: torch.device, free: int | None) -> int:
    """How much of prompts is kept on `device` by default, where `free` bytes are free when the weights are there: on a
    GPU at most half of that, because the prompt and the canvas that are worked on need the rest."""
    most = CACHE_BYTES.get(device.type, CACHE_BYTES["cuda"])
    return most if free is None or device.type == "cpu" else min(most, free // 2)


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


def compiled_passes() -> str | None:
    """The instructions of the processor for which there are compiled passes here; None where torch's are used."""
    found = native.library()
    return None if found is None else found.instructions
