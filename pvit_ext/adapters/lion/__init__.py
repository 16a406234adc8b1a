"""LION (arXiv 2311.11860): parts that a language model gets beside region modules, the identity until they train."""
