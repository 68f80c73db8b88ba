"""What is asked of the model and what it answers: plain data, no torch.

`Infiller` (infill.py) takes and gives these values only. So everything above it can be tested without tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol


class Readable(Protocol):
    """A text that can be read in parts; `str` is one."""

    def __len__(self) -> int:
        """Code points."""

    def __getitem__(self, part: slice, /) -> str:
        """A part of it."""


@dataclass(frozen=True, slots=True)
class Excerpt:
    """The text that the model sees of a file: `prefix HOLE between[0] HOLE between[1] ... HOLE suffix`.

    With one hole, the usual case, `between` is empty. `excerpt.cut` makes it, in serving and in training.
    """

    prefix: str
    suffix: str
    between: tuple[str, ...] = ()
    language: str = "python"
    file_name: str = ""
    """Used by chat prompts only."""

    @property
    def hole_count(self) -> int:
        """Number of holes, at least one."""
        return len(self.between) + 1


class InfillError(Exception):
    """A fill cannot be done, or the device failed; the message is for users. The next fill may succeed."""


Drafting = Literal["none", "copied", "denoised", "both"]
"""Where the drafts of a verified fill come from: nowhere (token by token), from the prompt, from denoising, or both."""


@dataclass(frozen=True, slots=True)
class FillRequest:
    """Fill the holes of `excerpt`.

    The settings below `budget_ms` override the checkpoint's own where given. The same `seed` gives the same drafts.
    """

    excerpt: Excerpt
    project_text: tuple[str, ...] = ()
    """Text to copy from: the rest of the file, and other files; the nearest last. It never has the former text of the
    holes. Only checkpoints whose policy copies or reads the project use it (`Infiller.uses_project_text`)."""
    one_line: bool = False
    """Every hole ends at its first newline."""
    max_tokens: int = 96
    """Most tokens of each hole."""
    candidates: int = 1
    """How many different texts are wanted for the (single) hole; `Draft.candidates` has them, best first."""
    start: tuple[str, ...] | None = None
    """The holes' present texts, to be repaired rather than written anew."""
    noise_level: float = 1.0
    """Share of `start` that becomes noise, 0 to 1. The rest stays where the network agrees with it."""
    budget_ms: float | None = None
    """Milliseconds from the first pass after the prompt. Then the next draft is the last one."""
    max_denoising_steps: int | None = None
    """Most denoising steps of a canvas. 0 disables drafts: a verified fill then decodes token by token."""
    entropy_bound: float | None = None
    denoise: bool = False
    """Denoise canvases instead of writing causally, also with a checkpoint that was not trained for it."""
    verify: bool | None = None
    drafting: Drafting | None = None
    renoise: bool | None = None
    copy_weight: float | None = None
    together: bool | None = None
    """Several holes in one canvas; otherwise one after the other, from left to right."""
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Candidate:
    """One text for a hole."""

    text: str
    log_likelihood: float
    """Of the text and its end under the causal head, in nats."""


Places = Sequence[tuple[int, int]]
"""Beginnings and ends in a text, in code points."""
DOUBT_NATS = 12.0
"""How much likelier a text must be with another word for a doubt. Of planted bugs, log/denoiser.md tells how many are
found so."""


@dataclass(frozen=True, slots=True)
class Doubt:
    """A word of a reviewed text that the model would replace."""

    start: int
    end: int
    """Its place in the text, in code points."""
    nats: float
    """How much likelier the text would be."""
    instead: str
    """The model's word."""


DraftedBy = Literal["copies", "similar line", "drafter", "canvas", "line below", "judge"]
"""Who proposes tokens of a verified fill: copies from the prompt or the project, a line of the project in like
surroundings, a drafter fed with the writer's states, a denoised canvas of the same network, or the line below the hole,
which is read to see whether the fill ends.
The judge may choose another text for a line when it is written."""


@dataclass(frozen=True, slots=True)
class DraftToken:
    """One canvas position of a hole, for watching a fill take shape."""

    text: str
    confidence: float
    """Probability of the shown token, 0 to 1."""
    settled: bool
    """True if the sampler accepted it or it was verified; otherwise it is noise and will be drawn again."""
    drafted_by: DraftedBy | None = None
    """Of a verified fill: who proposed it, None where the writer put it itself."""


@dataclass(frozen=True, slots=True)
class Check:
    """What one pass of a verified fill checked, and what came of it."""

    drafted: tuple[str, ...] = ()
    """The text of each proposed token that the pass read; empty where nothing was proposed."""
    drafted_by: DraftedBy | None = None
    accepted: int = 0
    """With so many of them the writer agreed, from the first on."""
    written: int = 0
    """Tokens that the pass added to `Draft.tokens`: the accepted ones, and mostly one more of the writer's own."""


@dataclass(frozen=True, slots=True)
class Draft:
    """The state of a fill after one step; the last one that `Infiller.fill` yields has `done` set.

    `texts` holds one string per hole: exactly what would be inserted there, token healing already undone.
    """

    texts: tuple[str, ...]
    step: int
    """Passes of the network so far (decoder steps plus causal passes); 0 while the prompt is being read."""
    done: bool = False
    complete: bool = False
    """Every hole has come to its end; False means that a limit or an early stop cut the text."""
    score: float = float("-inf")
    """Mean log-probability per token of the holes' text, in nats; of a line that was judged, the log-probability that
    it is right, shared out among as many tokens as a line usually has (`judge`). Higher is more certain."""
    tokens: tuple[tuple[DraftToken, ...], ...] = ()
    check: Check | None = None
    """What the latest pass checked; nothing where it was none of the writer's, None where the fill is denoised."""
    revised: int = 0
    """How often a token that had been placed was replaced by another."""
    candidates: tuple[Candidate, ...] = ()
    """Of the last draft, where the request asked for several: different texts, likeliest first."""

    @property
    def text(self) -> str:
        """The first hole's text."""
        return self.texts[0]


def check(request: FillRequest) -> None:
    """Refuse what makes no sense, before anything is done.

    Raises:
        InfillError: it says what and why.
    """
    holes = request.excerpt.hole_count
    steps, start = request.max_denoising_steps, request.start
    complaints = {
        f"max_tokens is {request.max_tokens}: a hole needs room for one token": request.max_tokens < 1,
        f"candidates is {request.candidates}, not 1 or more": request.candidates < 1,
        f"{request.candidates} candidates are wanted for {holes} holes: only one hole can have several": (
            request.candidates > 1 and holes > 1
        ),
        f"max_denoising_steps is {steps}, not 0 or more": steps is not None and steps < 0,
        f"noise_level is {request.noise_level}, not 0 to 1": not 0.0 <= request.noise_level <= 1.0,
        f"budget_ms is {request.budget_ms}, not 0 or more": not (request.budget_ms is None or request.budget_ms >= 0.0),
        f"{len(start or ())} starting texts for {holes} holes": start is not None and len(start) != holes,
        "two holes touch: with no text between them they are one hole": "" in request.excerpt.between,
    }
    for complaint, is_so in complaints.items():
        if is_so:
            raise InfillError(complaint)
