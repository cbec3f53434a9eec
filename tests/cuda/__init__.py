"""Checks that need a CUDA device; standard library only, as its machines may have no pytest."""
