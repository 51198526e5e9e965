"""What a chain of stages did to a data set: one page to read, and a card for the hub.

Rows are counted here, never changed.
"""
