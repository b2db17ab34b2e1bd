#!/usr/bin/env bash
# Send the events on standard input, a JSON array, to `projector ingest`:
#   INGEST_URL=http://127.0.0.1:8002 INGEST_TOKEN=... ./send.sh < events.json
# curl tries again after 408, 429, 5xx or no connection; a `sequence` keeps late repeats harmless.
# The token is not an argument: other users of the machine could read that.
set -euo pipefail
curl --silent --show-error --fail-with-body --retry 10 --retry-connrefused \
  --header @<(printf 'Authorization: Bearer %s' "$INGEST_TOKEN") \
  --header 'Content-Type: application/cloudevents-batch+json' \
  --header 'Prefer: wait=5' \
  --data-binary @- "$INGEST_URL/events"
