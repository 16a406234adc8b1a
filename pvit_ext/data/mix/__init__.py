"""``pvit-ext data mix``: training files in proportions, as one file."""
