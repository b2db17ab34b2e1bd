"""What operators ask of the projection, and how they mend it: read beside the owners."""
