"""What an evaluation reads and judges; no tensors here. What the files in eval/ hold is said in eval/README.md."""
