"""Training with the transformers host: its arguments and its trainer."""
