"""The API for servers of ASGI, by a name that only this product has.

uvicorn --factory projector.asgi:create_api --http projector.asgi:LookupProtocol
"""

from projector import own_api

own_api.claim()

from api.app import create_api  # noqa: E402
from api.lookup_protocol import LookupProtocol  # noqa: E402

__all__ = ["LookupProtocol", "create_api"]
