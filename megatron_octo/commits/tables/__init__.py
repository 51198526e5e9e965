"""Facts with lookups: languages by file name, licences, owners that opted out.

Nothing here reads rows.
"""
