"""Source code as text and syntax: languages, trees, names, and what of a file the model is shown. No tensors."""
