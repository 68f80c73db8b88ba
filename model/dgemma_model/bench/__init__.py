"""Times of the networks and of fills on this machine, compared with those of transformers."""
