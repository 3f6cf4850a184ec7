"""Images from a base that needs no registry, Apptainer, and ordinary users who run them.

Tests that deploy run in a network of their own, where nothing can be fetched. What they need of
images is made before, and kept in the checkout's ``.cache``::

    PYTHONPATH=tests/rigs:containers python -m containerrig

It needs root and the programs of docs/containers.md.
"""
