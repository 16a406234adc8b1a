"""Programs that use pvit-ext from a checkout."""
