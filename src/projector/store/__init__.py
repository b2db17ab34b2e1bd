"""Everything in Redis: the schema, one partition's store, its scripts."""
