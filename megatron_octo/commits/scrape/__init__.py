"""Contents of rows that lack them, fetched from the repositories that the rows name.

Which commits are wanted, and what becomes of their contents, does not belong here.
"""
