"""Region encoders, one file each, behind the contract in :mod:`pvit_ext.encoders.base`."""
