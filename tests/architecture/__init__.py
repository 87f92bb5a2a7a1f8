"""What can be said of the code's structure: rooms, levels of imports, circles, sizes."""
