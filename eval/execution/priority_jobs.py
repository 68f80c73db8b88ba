"""A queue of jobs by priority."""

import heapq
from dataclasses import dataclass, field
from itertools import count


@dataclass(order=True)
class Job:
    """A job; lower numbers are more urgent, and of equals the older comes first."""

    priority: int
    order: int
    name: str = field(compare=False)
    cancelled: bool = field(default=False, compare=False)


class JobQueue:
    """Jobs leave by urgency; cancelled ones are skipped."""

    def __init__(self) -> None:
        self._heap: list[Job] = []
        self._by_name: dict[str, Job] = {}
        self._order = count()

    def add(self, name: str, priority: int = 10) -> None:
        """Queue a job; a second one of the same name replaces the first."""
        if name in self._by_name:
            self.cancel(name)  # hole
        job = Job(priority, next(self._order), name)
        self._by_name[name] = job
        heapq.heappush(self._heap, job)  # hole

    def cancel(self, name: str) -> None:
        """Forget a job; raises `KeyError` where there is none."""
        job = self._by_name.pop(name)
        job.cancelled = True  # hole

    def pop(self) -> str | None:
        """The most urgent job, or nothing."""
        while self._heap:
            job = heapq.heappop(self._heap)  # hole: 4 lines
            if not job.cancelled:
                del self._by_name[job.name]
                return job.name
        return None

    def __len__(self) -> int:
        return len(self._by_name)


# ---- tests
queue = JobQueue()
for name, priority in (("mail", 5), ("backup", 9), ("alarm", 0), ("print", 5), ("sweep", 7)):
    queue.add(name, priority)
queue.cancel("sweep")
queue.add("backup", 1)
assert len(queue) == 4
assert [queue.pop() for _ in range(5)] == ["alarm", "backup", "mail", "print", None]
assert len(queue) == 0
queue.add("again")
assert queue.pop() == "again"
try:
    queue.cancel("again")
except KeyError:
    pass
else:
    raise AssertionError("no error")
