"""Ferret (arXiv 2310.07704): points sampled inside a region, grouped and pooled."""
