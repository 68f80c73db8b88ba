"""`python -P -m dgemma_lsp`: the same as the command `dgemma-lsp`."""

from dgemma_lsp.command.start import main

main()
