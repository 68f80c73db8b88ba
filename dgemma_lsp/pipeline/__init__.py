"""From a place in a document to a suggestion: what to fill, what the model is shown, what is made of its text."""
