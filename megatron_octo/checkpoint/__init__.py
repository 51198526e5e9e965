"""Checkpoints on disk: safetensors files and one manifest, written by many ranks and read in any layout.

Works on torch tensors and files. Process groups, Megatron and other formats' names belong to higher rooms.
"""
