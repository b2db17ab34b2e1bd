"""The check of stored views against the checkpoint's facts, and their repair."""
