"""Questions and answers about regions, written by a language model behind an OpenAI-compatible endpoint."""
