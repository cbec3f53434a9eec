"""Requests that nobody should send: short here, FUZZ_MINUTES long with `make fuzz`."""
