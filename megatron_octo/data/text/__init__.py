"""Text to tokens: tokenizers, templates and the drafts of documents. Reads no input files and writes no data sets."""
