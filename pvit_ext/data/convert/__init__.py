"""``pvit-ext data convert``: annotations and data sets of others, as records that train.

A format is one file here, or a class that another package offers in the entry-point group ``pvit_ext.data_formats``;
the contract is :class:`~pvit_ext.data.convert.base.DataFormat`. A format reads its source into
:class:`~pvit_ext.data.convert.annotation.AnnotatedImage`, regions in pixels of the upright image or as they stand in
a record. Tasks, see :mod:`pvit_ext.data.tasks`, make records of it.
"""
