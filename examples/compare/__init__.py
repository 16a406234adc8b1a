"""The comparison: every region encoder trained on one world with one budget (``pvit-ext compare``)."""
