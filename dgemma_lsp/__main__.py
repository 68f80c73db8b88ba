"""`python -P -m dgemma_lsp`: the same as the command `dgemma-lsp`."""

from dgemma_lsp.cli import main

main()
