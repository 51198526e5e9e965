"""Formats that weights are read from, each opened as a :class:`~megatron_octo.checkpoint.source.Source`.

Readers run nothing that a file contains and write nothing.
"""
