"""Files beside a converted checkpoint that are mapped, so that all processes that serve it share one copy."""
