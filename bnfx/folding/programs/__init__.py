"""Exported programs: folded, and given back as exported programs."""
