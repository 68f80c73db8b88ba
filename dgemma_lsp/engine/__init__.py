"""A model on another machine, or in another process, that is asked over HTTP."""
