"""A report as tables, HTML pages and plots."""
