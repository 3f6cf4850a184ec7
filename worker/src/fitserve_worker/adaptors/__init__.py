"""Adaptors: the kernel behind the interfaces of programs for reinterpretation.

The programs themselves are no dependencies; each adaptor imports its own.
"""
