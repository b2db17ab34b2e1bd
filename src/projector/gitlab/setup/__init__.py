"""The check of a database's setup: findings, and the SQL that mends them."""
