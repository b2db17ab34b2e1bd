"""The read side: one Redis read per lookup, and 503 wherever the answer could be too old."""
