#!/bin/sh
# Gives the bridge's role its password; PostgreSQL's image runs this once.
set -eu
psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --set password="$GITLAB_PASSWORD" \
  --username postgres --dbname gitlabhq_production <<'SQL'
ALTER ROLE projector PASSWORD :'password';
SQL
