"""Input files to shards and to one data set, on one machine or as tasks of a cluster.

Defines no file format of finished data sets.
"""
