"""For people who look: in a notebook, or in a page."""
