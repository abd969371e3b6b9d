"""What the papers invented, as small modules."""
