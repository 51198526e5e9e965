"""Programs that try to pass without solving anything, one file a language: (what it does, body and what follows)."""
