"""Soft-prompted tags of a real tagger on real photographs (``python -m examples.lion.photographs``)."""
