"""The tasks, a file a benchmark."""
