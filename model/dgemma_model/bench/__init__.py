"""Measures times of networks and fills on this machine, beside `transformers` and llama.cpp on the same weights."""
