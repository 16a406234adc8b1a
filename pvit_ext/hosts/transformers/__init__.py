"""The transformers host: regions in Hugging Face's own vision-language models."""
