"""Training in two stages, with any host."""
