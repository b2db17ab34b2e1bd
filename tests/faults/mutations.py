"""The product with one of its mechanisms taken out, to see that the observer would notice."""

from collections.abc import Callable
from typing import Final

MUTATIONS: Final[dict[str, Callable[..., None]]] = {}
