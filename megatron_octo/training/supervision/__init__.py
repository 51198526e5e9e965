"""Processes of a run: launch, meeting, watching, ending together. No numbers of the model belong here."""
