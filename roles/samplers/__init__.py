"""Which samples a trainer trains on in a round."""
