"""Checks before anything is started: files and settings that a run needs. Imports no torch and changes nothing."""
