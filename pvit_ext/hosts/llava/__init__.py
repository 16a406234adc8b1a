"""The llava package (llava-torch 1.2.2) as a host."""
