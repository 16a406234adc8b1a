"""What is asked about an annotated image, and how it is answered: the tasks of ``pvit-ext data convert --task``.

A task is one file here, or a class that another package offers in the entry-point group ``pvit_ext.data_tasks``; the
contract is :class:`~pvit_ext.data.tasks.base.Task`. It makes turns from an
:class:`~pvit_ext.data.convert.annotation.AnnotatedImage`; :mod:`~pvit_ext.data.tasks.records` makes records of turns.
"""
