"""The papers' own experiments as records: expanded to runs, run, judged, rendered."""
