"""The demo: a page to point at a picture and ask, and what answers it."""
