"""Facts, the rules over them, and the views that follow. Pure."""
