"""What an evaluation reads and judges; no tensors here. eval/README.md says what the files in eval/ hold."""
