"""A run: its file, its method, its settings, its folder; and loading it again."""
