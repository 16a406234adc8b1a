"""Serving a loaded model: requests that arrive one by one, answered together."""
