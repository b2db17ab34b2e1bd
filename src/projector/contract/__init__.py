"""The contract for events: AsyncAPI and JSON Schemas, generated from the code."""
