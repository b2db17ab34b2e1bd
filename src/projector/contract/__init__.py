"""The contract for those who feed events, generated from the code that reads them."""
