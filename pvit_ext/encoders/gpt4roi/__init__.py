"""GPT4RoI (arXiv 2307.03601): levels of the vision tower fused, then RoIAlign."""
