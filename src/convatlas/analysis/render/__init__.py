"""A report as tables, pages and pictures."""
