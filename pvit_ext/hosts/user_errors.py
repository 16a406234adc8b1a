"""Which errors are the user's to mend: a program says their message alone."""

from __future__ import annotations


def is_user_error(error: Exception) -> bool:
    """Whether the message of an error tells the user what to do.

    RegionError, RecordError and CacheError are ValueErrors. An ImportError without the name of a module was raised by
    hand, to say what to install.
    """
    from pvit_ext.hosts.llava.patching import PatchError

    by_hand = isinstance(error, ImportError) and error.name is None
    return by_hand or isinstance(error, (ValueError, OSError, PatchError))
