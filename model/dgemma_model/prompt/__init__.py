"""Text to token ids and back: tokenizer, and how each family of checkpoints is asked. No tensors."""
