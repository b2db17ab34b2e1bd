"""The operators' page at `/ops/`: read only, off by default, and never in a lookup's way."""
