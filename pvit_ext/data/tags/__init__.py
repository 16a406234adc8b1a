"""Tags of images: where they come from, how they are written into records and prompts, and how good they are."""
