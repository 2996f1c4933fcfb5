"""Payloads in memory that the processes of one machine share: only a handle travels."""
