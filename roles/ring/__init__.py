"""The ring: workers of one role that average their models among themselves, without an aggregator between them.

`cut` and `reduction` are the arithmetic, `standing`, `succession` and `lead` what the members agree on (all without I/O),
`ring` brings both to a channel, `serverless` is what a job without aggregators needs besides: whose model is the right one,
and who keeps it.
"""
