"""Checkpoints on disk: their configuration, how they are found, loaded and saved."""
