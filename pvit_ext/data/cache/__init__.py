"""Maps of a frozen tower, made once and read in every epoch: what they depend on, how they are stored and filled."""
