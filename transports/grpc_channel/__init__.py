"""Messages over gRPC: one bidirectional stream for each channel and pair of workers."""
