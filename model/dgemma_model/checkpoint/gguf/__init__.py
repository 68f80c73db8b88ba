"""Reading .gguf files: their header, their weights, and the tokenizer that they hold. For conversion only."""
