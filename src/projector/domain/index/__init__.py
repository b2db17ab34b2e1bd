"""The facts of one partition, and the indexes that find all that a change of one affects."""
