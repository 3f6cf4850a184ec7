"""Kinds of question: of each, in one file, all that the client does with it.

That is which options ask it, how long it takes, what an answer must hold, and what is shown of it:
in tables, exports and reports, and in which pictures.
"""
