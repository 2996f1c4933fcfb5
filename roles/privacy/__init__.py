"""What keeps updates from telling too much."""
