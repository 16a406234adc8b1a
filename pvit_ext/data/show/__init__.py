"""``pvit-ext data show``: a training file as a page to look at."""
