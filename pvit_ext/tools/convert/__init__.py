"""Moving checkpoints between the hosts: LLaVA-1.5 and 1.6 of LLaVA's own code, and of transformers."""
