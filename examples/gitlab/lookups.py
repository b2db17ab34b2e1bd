"""Lookups of jobs over HTTP."""

import contextlib
import http.client
import json
import time
from typing import Any

PATH = "/api/v4/job/allowed_agents"
Answer = tuple[int, dict[str, Any]]


def lookup(api: str, token: str, max_age: int) -> Answer:
    headers = {"Job-Token": token, "Cache-Control": f"max-age={max_age}"}
    place = api.removeprefix("http://")
    with contextlib.closing(http.client.HTTPConnection(place, timeout=10)) as connection:
        connection.request("GET", PATH, headers=headers)
        response = connection.getresponse()
        return response.status, json.load(response)


def settled(api: str, token: str) -> Answer:
    """Return the answer; a 503 asks to try again."""
    for _ in range(50):
        status, body = lookup(api, token, max_age=1)
        if status != 503:
            break
        time.sleep(0.2)
    return status, body
