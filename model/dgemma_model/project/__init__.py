"""What the rest of the project says: copies, similar lines, and the judge that chooses among texts."""
