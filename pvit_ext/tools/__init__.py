"""Checkpoints on disk: another region encoder, the original PVIT's, and what is wrong with an installation."""
