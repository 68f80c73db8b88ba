"""The ways to fill: token by token with drafts, denoised, by width; their caches, limits and stop rules."""
