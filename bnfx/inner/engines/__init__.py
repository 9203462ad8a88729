"""Engines: compilers for inference that know nothing of torch. ADR 028."""
