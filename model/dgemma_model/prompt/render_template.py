"""Renders a checkpoint's chat template once, in a process of its own: the child of chat.py, never imported there.

A template is foreign code. jinja2's sandbox keeps it from everything but time and memory; those the operating system
limits here. Reads a job from stdin as JSON, `source` and `variables`, and writes `text` or `error`.
"""

from __future__ import annotations

import json
import sys
from datetime import datetime
from typing import Any

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

CPU_SECONDS = 2
MEMORY_BYTES = 2**30
MOST_CHARS = 2**20
"""Most code points that a template may write for one message."""


def set_limits() -> None:
    """Limit this process. Windows has no such limits; there only the parent's timeout ends it."""
    try:
        import resource
    except ImportError:
        return
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def environment() -> ImmutableSandboxedEnvironment:
    """A sandbox with the functions that `transformers` gives to chat templates."""

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    def tojson(value: Any, indent: int | None = None, ensure_ascii: bool = False) -> str:
        return json.dumps(value, indent=indent, ensure_ascii=ensure_ascii)

    found = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    found.filters["tojson"] = tojson
    found.globals["raise_exception"] = raise_exception
    found.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return found


def main() -> None:
    """Read the job, render it, write the answer."""
    job = json.load(sys.stdin)
    set_limits()
    try:
        text = environment().from_string(job["source"]).render(job["variables"])
        answer = {"text": text} if len(text) <= MOST_CHARS else {"error": f"it writes {len(text):,} characters"}
    except MemoryError:
        answer = {"error": f"it takes more than {MEMORY_BYTES / 2**20:.0f} MiB of memory"}
    except Exception as error:  # foreign code may raise anything
        answer = {"error": f"{error or type(error).__name__}"[:1000]}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
