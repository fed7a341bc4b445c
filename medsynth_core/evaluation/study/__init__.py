"""A reader study: one page with real and synthetic films in random order, and what readers' answers say."""
