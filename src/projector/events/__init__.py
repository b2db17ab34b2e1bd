"""Events that upstream systems send: types, decoding, redaction. No I/O."""
