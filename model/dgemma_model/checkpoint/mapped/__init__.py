"""Files beside a converted checkpoint that processes map into memory, so that all who serve it share one copy."""
