"""Bringing a checkpoint into the store: its sources, and what keeps an interrupted download of use."""
