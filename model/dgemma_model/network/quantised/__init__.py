"""Experts in 4 or 8 bits: how their weights are rounded, and products over them."""
