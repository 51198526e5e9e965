"""Formats that weights are written in, each planned as files of tensors and run by the engine.

A writer takes any source; a new reader needs no change here.
"""
