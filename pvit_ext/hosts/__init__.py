"""What region modules live in: one folder for each family of vision-language models."""
