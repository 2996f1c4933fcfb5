"""Certificates, identities and TLS: who may speak to whom, and as what."""
