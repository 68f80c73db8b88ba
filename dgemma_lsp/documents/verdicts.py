"""Whether open documents are excluded, for the event loop: found out on the disk's threads, and kept for a while.

A verdict is asked for again after a second. A request waits for it only for a limited time. If the disk does not
answer, the earlier verdict counts, and a document without one is excluded. The disk is not asked about a document again
before it has answered. So a folder that hangs costs a few threads and delays no document of another one.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from dgemma_lsp.documents.disk import DiskThreads
from dgemma_lsp.documents.exclusions import Exclusions, Verdict

logger = logging.getLogger(__name__)

FRESH_S = 1.0
"""How long a verdict counts."""
PATIENCE_S = 1.0
"""How long a request waits for a verdict."""
_KEPT = 512
"""Documents whose verdict is remembered; more where more are open, or more requests wait."""

UNKNOWN = Verdict("its folder has not answered yet, so that its rules are not known", "its rules are not known")


@dataclass(slots=True)
class _Known:
    verdict: Verdict = UNKNOWN
    asked_at: float = float("-inf")
    asking: asyncio.Future[Verdict] | None = None
    in_vain: bool = False
    """A request has waited for the disk, and the disk has not answered since."""
    waiting: int = 0
    """Requests that wait for the verdict now."""
    is_open: bool = False
    """The client has the document open."""


class Verdicts:
    """For the event loop's thread."""

    def __init__(self, threads: DiskThreads, folders: Iterable[str] = ()) -> None:
        """`folders` are the workspace's, as uris."""
        self._threads = threads
        self._exclusions = Exclusions(folders)
        self._known: OrderedDict[str, _Known] = OrderedDict()

    def known(self, uri: str) -> Verdict:
        """The latest verdict; `UNKNOWN`, which excludes, for a document about which nothing is known yet."""
        found = self._known.get(uri)
        return UNKNOWN if found is None else found.verdict

    def rule(self, uri: str) -> str | None:
        """The rule that excludes a document, as far as it is known."""
        return self.known(uri).rule

    def paths(self, uris: Iterable[str]) -> frozenset[Path]:
        """Every name of the files of some documents, as far as they are known."""
        return frozenset(path for uri in uris for path in self.known(uri).paths)

    def opened(self, uri: str) -> None:
        """Look at a document from now on: its verdict and its names are remembered until it is closed."""
        self._look_at(uri).is_open = True

    def closed(self, uri: str) -> None:
        """A document is open no more; one that never was may be named, too."""
        if (known := self._known.get(uri)) is not None:
            known.is_open = False

    def _look_at(self, uri: str) -> _Known:
        """Ask for the verdict about a document, unless it is new or being asked for."""
        known = self._known.setdefault(uri, _Known())
        self._known.move_to_end(uri)
        if (too_many := len(self._known) - _KEPT) > 0:
            unused = (other for other, its in self._known.items() if not (its.waiting or its.is_open or its is known))
            for other in list(islice(unused, too_many)):
                del self._known[other]
        if known.asking is None and time.monotonic() - known.asked_at > FRESH_S:
            known.asked_at = time.monotonic()
            folder = uri.rpartition("/")[0]
            known.asking = self._threads.ask(lambda: self._exclusions.verdict(uri), folder)
            known.asking.add_done_callback(lambda asking: _take(known, asking))
        return known

    async def judged(self, uris: Collection[str]) -> None:
        """Return when there are new verdicts about some documents, or when the disk has had its time."""
        waited_for: list[_Known] = []
        for uri in uris:
            waited_for.append(known := self._look_at(uri))
            known.waiting += 1
        asking = [known.asking for known in waited_for if known.asking is not None and not known.in_vain]
        try:
            if asking:
                await asyncio.wait(asking, timeout=PATIENCE_S)
        finally:
            for known in waited_for:
                known.waiting -= 1
        for known in waited_for:
            known.in_vain = known.asking is not None


def _take(known: _Known, asking: asyncio.Future[Verdict]) -> None:
    known.asking, known.in_vain = None, False
    if (error := asking.exception()) is not None:
        logger.error("the rules of a document could not be judged", exc_info=error)
    known.verdict = UNKNOWN if error is not None else asking.result()
