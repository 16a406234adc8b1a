"""What a user points at: regions, masks, images, and the affines between original pixels and views."""
