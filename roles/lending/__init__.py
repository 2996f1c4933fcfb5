"""Asynchronous jobs with a coordinator: who lends whom to whom, and what is said about it."""
