"""Times of the networks and of fills on this machine, beside those of transformers."""
