"""The quickstart: PVIT's experiment in miniature, really trained (``python -m examples.quickstart``)."""
