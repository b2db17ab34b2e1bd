"""Dead letters: listed, grouped, and sent again."""
