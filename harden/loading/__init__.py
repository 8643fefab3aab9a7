"""Bytes in, module out: one file per input format, and the scan that comes first."""
