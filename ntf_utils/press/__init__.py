"""The press: executes the notebooks for git and the book for readers. Knows nothing of papers or training."""
