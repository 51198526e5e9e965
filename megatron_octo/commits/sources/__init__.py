"""Instructions from other sources, and mixing.

Nothing here reads git.
"""
