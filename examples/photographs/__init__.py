"""The real experiment: photographs, a pre-trained language model and pre-trained image features on two CPU cores.

``python -m examples.photographs`` trains and measures; :mod:`~examples.photographs.plugin` is what a package of its own
would offer by entry points.
"""
