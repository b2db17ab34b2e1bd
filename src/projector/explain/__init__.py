"""A decision in words, with the events behind each reason. Pure."""
