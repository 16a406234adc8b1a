"""Adapters on the language model."""
