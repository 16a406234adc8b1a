"""Answers that another model judges: what it is asked, how its replies are read, and what becomes of them."""
