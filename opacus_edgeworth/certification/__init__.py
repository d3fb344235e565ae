"""Certificates in ball arithmetic: bounds that can be handed on and checked."""
