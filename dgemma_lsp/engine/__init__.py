"""Fills by an engine: a model server in another process or on another machine, asked over HTTP."""
