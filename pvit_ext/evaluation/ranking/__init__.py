"""Answers of several systems side by side, ranked by people who do not know whose they are."""
