"""Indexed datasets and their manifests on disk. Depends on neither tokenizers nor packed rows."""
