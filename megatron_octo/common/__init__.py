"""Tools of every room: errors, files, leases, records, quoting and durations.

Modules here import nothing else of the library and know nothing of recipes, models or runs.
"""
