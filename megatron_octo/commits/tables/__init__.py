"""Facts with lookups (languages by file name, licences, owners that opted out, bots), and the stages that apply them.

Nothing here looks at messages or fetches.
"""
