"""What root may do, an ordinary user may not: the rest of this process is nobody's.

Run as a process, this is the fake server as nobody. Everything is imported first: what root has installed, nobody may
not be able to read.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path


def become_nobody() -> None:
    """Give up root's rights, where this process has them."""
    if os.getuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))  # run with -P
    import fake_server

    become_nobody()
    sys.exit(fake_server.main())
