"""Block-diffusion code infilling: the network, its sampler, and what it sees of a file."""

import os

# Read by OpenMP when torch is first imported. By default its threads spin for long while they wait for each other: with
# another busy process on the machine, and beside an editor there always is one, a fill then takes many times as long.
# Waking a thread takes longer than most of its work. So threads spin for a moment before they sleep
# (network/threads.py; figures in log/archive.md).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "2000")
