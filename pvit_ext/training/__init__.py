"""The two stages through LLaVA's trainer."""
