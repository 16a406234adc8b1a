"""The formats that come with pvit-ext, one file each; setup.cfg lists them as entry points."""
