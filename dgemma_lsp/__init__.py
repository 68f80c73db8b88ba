"""A language server that fills code in place with a block-diffusion model in its own process."""
