"""The HTML page of a release: what it shows, and how."""
