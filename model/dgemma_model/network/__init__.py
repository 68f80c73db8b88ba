"""Token ids to logits: the networks, their caches, and how they are computed fast."""
