"""What one imports to load Isaac Gym's library."""
