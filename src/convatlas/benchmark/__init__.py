"""Speed beside what a user would run otherwise."""
