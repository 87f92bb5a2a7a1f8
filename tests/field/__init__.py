"""What people report of merging tools, as small models made here, and what is right of each."""
