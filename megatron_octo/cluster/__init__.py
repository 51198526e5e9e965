"""Clusters: what a run needs, and how it gets there."""
