"""Documents and files: exact positions, edits, what may be read, what lies nearby."""
