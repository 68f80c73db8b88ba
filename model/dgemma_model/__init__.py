"""Block-diffusion code infilling: the network, its sampler, and what it sees of a file."""
