"""The contract for events, generated from the code that reads them."""
