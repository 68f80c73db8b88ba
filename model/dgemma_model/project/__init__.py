"""What a fill takes from the rest of the project: copies, similar lines, and the judge that chooses among texts."""
