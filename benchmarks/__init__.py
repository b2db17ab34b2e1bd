"""How fast the product is, beside what its parts can do in the same minutes: ratios, not times."""
