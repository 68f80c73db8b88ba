"""What is asked of the model and what it answers: plain data, no torch.

`Infiller` (infill.py) takes these and gives these, so that everything above it can be tested, and could one
day live in another process, without a tensor in sight.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Excerpt:
    """What the model will see of a file, in text: `prefix HOLE between[0] HOLE between[1] ... HOLE suffix`.

    One hole, the usual case, has no `between`. Cut by `excerpt.cut`, in serving and training alike.
    """

    prefix: str
    suffix: str
    between: tuple[str, ...] = ()
    language: str = "python"

    @property
    def hole_count(self) -> int:
        """Number of holes, at least one."""
        return len(self.between) + 1


@dataclass(frozen=True, slots=True)
class FillRequest:
    """Fill the holes of `excerpt`.

    `one_line` ends the (single) hole at the first newline. `max_tokens` bounds the tokens of each hole.
    `max_denoising_steps`, `entropy_bound`, `verify` and `copy_weight` override the checkpoint's own settings where
    given; a verified fill with no denoising steps is read token by token. The same `seed` gives the same drafts.
    """

    excerpt: Excerpt
    one_line: bool = False
    max_tokens: int = 96
    max_denoising_steps: int | None = None
    entropy_bound: float | None = None
    verify: bool | None = None
    copy_weight: float | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True)
class DraftToken:
    """One canvas position of a hole, for watching a fill take shape."""

    text: str
    confidence: float
    """Probability of the shown token, 0 to 1."""
    settled: bool
    """Accepted by the sampler or verified; otherwise it is noise that will be drawn again."""


@dataclass(frozen=True, slots=True)
class Draft:
    """The state of a fill after one step; the last one that `Infiller.fill` yields has `done` set.

    `texts` holds one string per hole: exactly what would be inserted there, token healing already undone.
    """

    texts: tuple[str, ...]
    step: int
    """Passes of the network over the canvas so far (decoder steps plus verifying passes)."""
    done: bool = False
    complete: bool = False
    """The model ended every hole itself; False means the text was cut by a limit or by stopping early."""
    score: float = float("-inf")
    """Mean log-probability per token of the holes' text, in nats; higher is more certain."""
    tokens: tuple[tuple[DraftToken, ...], ...] = ()

    @property
    def text(self) -> str:
        """The first hole's text."""
        return self.texts[0]
