"""The region token builder: encoder and projector as one module, its inputs, and its files."""
