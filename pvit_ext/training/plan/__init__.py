"""What a training run will take, from its flags and config.json alone: ``pvit-ext plan``."""
