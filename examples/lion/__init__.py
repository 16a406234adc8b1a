"""LION's claims, measured in the quickstart's world (``python -m examples.lion``)."""
