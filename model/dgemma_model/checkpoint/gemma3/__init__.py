"""Gemma 3, a plain causal relative of DiffusionGemma: published directories and `.gguf` files."""
