"""Looking at a run from outside, while it trains or afterwards: a summary, and a page with plots. Imports no torch."""
