"""The command line over all parts: the only package that knows both calibration and service."""
