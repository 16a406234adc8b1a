"""Training with the llava host: its arguments, its trainer, and trees that start LLaVA's own script."""
