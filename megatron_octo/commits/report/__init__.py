"""One page and a data card about a data set and its stages.

Nothing here changes rows.
"""
