"""The read side: one Redis read per lookup, and 503 if the answer could be too old."""
