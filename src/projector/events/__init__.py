"""The events that upstream systems send: types, decoding, redaction. Pure."""
