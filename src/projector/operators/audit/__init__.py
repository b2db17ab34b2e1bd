"""The audit: facts compared with an upstream export, and repaired by events."""
