"""The layers and the head of a served Qwen2 or Llama network: compiled (native), or in operations of torch."""
